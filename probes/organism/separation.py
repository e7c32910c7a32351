"""How well activations tell two labels apart: a plain logistic probe, for figures about the organism itself."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

ByLabel = Mapping[bool, torch.Tensor]


def auroc(train: ByLabel, held_out: ByLabel) -> float:
    """AUROC on ``held_out`` of a logistic probe fitted on ``train``; activations by label, ``(n, d_model)``."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(*_labelled(train))
    activations, labels = _labelled(held_out)
    return float(roc_auc_score(labels, probe.decision_function(activations)))


def _labelled(activations: ByLabel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    sides = activations[True], activations[False]
    return torch.cat(sides).numpy(), np.repeat([1, 0], [len(side) for side in sides])
