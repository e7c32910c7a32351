"""Token scores kept by KV slot, so that a prefix-cache hit costs no recompute.

Whatever writes a KV slot runs through the taps, so a slot's scores and its keys and values are written together and
belong to the same token. Each slot is tagged with the position and, for a token of a prompt, the token id that it was
scored for; a reader that expects another token gets NaN: unscored. A slot that no forward pass filled is NaN too.

Runs in: vLLM worker, on the host, after the forward pass. Scatter comes before gather, because two identical prompts in
one step share blocks that are being computed in that very step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.engine.ledger import UNKNOWN

Ints = NDArray[np.int64]
Scores = NDArray[np.float32]


class ScoreCache:
    """``(n_slots, n_columns)`` fp32, NaN where nothing was scored.

    Args:
        n_blocks: blocks of the KV cache. block_size: tokens in a block. n_columns: as the taps write.
    """

    def __init__(self, n_blocks: int, block_size: int, n_columns: int) -> None:
        n = n_blocks * block_size
        self._block_size = block_size
        self._kept = np.full((n, n_columns), np.nan, dtype=np.float32)
        self._positions = np.full(n, -1, dtype=np.int32)
        self._tokens = np.full(n, UNKNOWN, dtype=np.int32)

    def scatter(self, slots: Ints, scores: Scores, positions: Ints, tokens: Ints | int = UNKNOWN) -> None:
        """Keep ``scores`` ``(n, n_columns)`` under ``slots`` ``(n,)``; NaN rows are kept as NaN."""
        self._kept[slots] = scores
        self._positions[slots] = positions
        self._tokens[slots] = tokens

    def forget(self, slots: Ints) -> None:
        """These slots were filled without scores."""
        self._kept[slots] = np.nan

    def gather(self, slots: Ints, positions: Ints, tokens: Ints) -> Scores:
        """The scores kept under ``slots`` for these tokens: ``(n, n_columns)``, NaN where another token was scored."""
        kept: Scores = self._kept[slots]
        known = self._tokens[slots]
        kept[(self._positions[slots] != positions) | ((known != tokens) & (known != UNKNOWN))] = np.nan
        return kept

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Follow the scheduler's copies ``(source block, target block)`` of KV blocks."""
        source, target = (np.array([pair[i] for pair in copies], dtype=np.int64) for i in (0, 1))
        for kept in (self._kept, self._positions, self._tokens):
            blocks = kept.reshape(-1, self._block_size, *kept.shape[1:])
            blocks[target] = blocks[source]
