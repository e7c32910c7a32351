"""One thread: these models are too small to gain from more."""

import torch

torch.set_num_threads(1)
