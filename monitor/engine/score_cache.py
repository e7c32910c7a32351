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

from monitor.engine.fold_kernel import keep_rows
from monitor.engine.row_kernel import UNKNOWN

FOREIGN = -2
"""Token id of a KV slot whose keys and values an adapter may have changed."""
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
        no_rows: Ints = np.zeros(0, dtype=np.int64)  # compile now, not in a step
        self.scatter(no_rows, np.zeros((0, n_columns), dtype=np.float32), no_rows, no_rows)

    def scatter(self, slots: Ints, scores: Scores, positions: Ints, tokens: Ints) -> None:
        """Keep ``scores`` ``(n, n_columns)`` under ``slots`` ``(n,)``; infinities become NaN, in ``scores`` as well."""
        keep_rows(scores, slots, positions, tokens, self._kept, self._positions, self._tokens)

    def forget(self, slots: Ints) -> None:
        """These slots were filled without scores, and by whom is not known."""
        self._kept[slots], self._tokens[slots] = np.nan, FOREIGN

    def gather(self, slots: Ints, positions: Ints, tokens: Ints) -> Scores:
        """The scores kept under ``slots`` for these tokens: ``(n, n_columns)``, NaN where another token was scored."""
        kept: Scores = self._kept[slots]
        known = self._tokens[slots]
        kept[(self._positions[slots] != positions) | ((known != tokens) & (known != UNKNOWN))] = np.nan
        return kept

    def foreign(self, slots: Ints) -> bool:
        """Whether an adapter has changed the keys and values of any of these slots."""
        return bool((self._tokens[slots] == FOREIGN).any())

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Follow the scheduler's copies ``(source block, target block)`` of KV blocks."""
        source, target = (np.array([pair[i] for pair in copies], dtype=np.int64) for i in (0, 1))
        for kept in (self._kept, self._positions, self._tokens):
            blocks = kept.reshape(-1, self._block_size, *kept.shape[1:])
            blocks[target] = blocks[source]
