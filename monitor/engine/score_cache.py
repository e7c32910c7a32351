"""Token scores kept by KV slot, so that a prefix-cache hit costs no recompute.

Whatever writes a KV slot runs through the taps, so a slot's scores and its keys and values are written
together and belong to the same token. A slot that no forward pass filled is NaN: unscored.

Runs in: vLLM worker, after the forward pass, outside the graph. Scatter comes before gather, because two
identical prompts in one step share blocks that are being computed in that very step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ScoreCache:
    """``(n_slots, n_columns)`` fp32, NaN where nothing was scored.

    Args:
        n_blocks: blocks of the KV cache. block_size: tokens in a block. n_columns: as the taps write.
        device: of the scores.
    """

    def __init__(self, n_blocks: int, block_size: int, n_columns: int, device: torch.device) -> None:
        self._block_size = block_size
        self._kept = torch.full((n_blocks * block_size, n_columns), torch.nan, device=device)

    def scatter(self, slots: NDArray[np.int64], scores: Tensor) -> None:
        """Keep ``scores`` ``(n, n_columns)`` under ``slots`` ``(n,)``; NaN rows are kept as NaN."""
        self._kept[torch.from_numpy(slots)] = scores

    def forget(self, slots: NDArray[np.int64]) -> None:
        """These slots were filled without scores."""
        self._kept[torch.from_numpy(slots)] = torch.nan

    def gather(self, slots: NDArray[np.int64]) -> Tensor:
        """The scores kept under ``slots``: ``(n, n_columns)``."""
        return self._kept[torch.from_numpy(slots)]

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Follow the scheduler's copies ``(source block, target block)`` of KV blocks."""
        blocks = self._kept.view(-1, self._block_size, self._kept.shape[1])
        source, target = (torch.tensor([int(pair[i]) for pair in copies]) for i in (0, 1))
        blocks[target] = blocks[source]
