"""A uniform sample of a stream of rows, in bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class Reservoir:
    """Every row seen so far is in the sample with the same probability.

    Source: Vitter 1985, "Random sampling with a reservoir", algorithm R.

    Args:
        size: rows to keep at most.
        rng: which ones.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size = size
        self._rng = rng
        self._rows: Rows | None = None
        self._seen = 0

    @property
    def rows(self) -> Rows:
        """The sample: ``(min(size, seen), width)`` fp32."""
        if self._rows is None:
            return np.empty((0, 0), dtype=np.float32)
        return self._rows[: min(self._seen, self._size)]

    @property
    def seen(self) -> int:
        """Rows offered so far."""
        return self._seen

    def offer(self, rows: Rows) -> None:
        """Offer ``(n, width)`` fp32 rows."""
        if self._rows is None:
            self._rows = np.empty((self._size, rows.shape[1]), dtype=np.float32)
        number = self._seen + np.arange(len(rows))
        place = np.where(number < self._size, number, self._rng.integers(0, number + 1))
        kept = place < self._size
        self._rows[place[kept]] = rows[kept]  # of several rows for one place numpy keeps the last, as the stream would
        self._seen += len(rows)
