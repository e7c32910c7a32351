"""Which line of the steering table each row of the coming step gets.

A request keeps its line from step to step; it is made anew only where its steering changes (the prompt's end, a rule
that tripped, a strength that decays).

Runs in: vLLM worker, on the host, before the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monitor.engine.ledger import StepRows
from monitor.engine.request import FOREVER, FollowedRequest
from monitor.engine.steer import SteeringTable

Ints = NDArray[np.int64]

_NO_ROWS: Ints = np.zeros(0, dtype=np.int64)
_NO_LINES: NDArray[np.float32] = np.zeros(0, dtype=np.float32)


class Lines:
    """The current line of every request that may be steered.

    Args:
        table: to write to. capacity: request slots.
    """

    def __init__(self, table: SteeringTable, capacity: int) -> None:
        self._table = table
        blank = table.line(())
        self._fields = np.tile(blank.fields, (capacity, 1, 1))
        self._needs = np.tile(blank.needs, (capacity, 1))
        self._from = np.zeros(capacity, dtype=np.int64)
        self._until = np.full(capacity, FOREVER, dtype=np.int64)
        self._steered = np.zeros(capacity, dtype=np.bool_)
        self._n_steered = 0
        self._none = np.zeros_like(blank.needs)

    def reserve(self, capacity: int) -> None:
        """Make room for as many request slots, of requests that are followed or not."""
        while len(self._until) < capacity:
            self._grow()

    def open(self, request: FollowedRequest) -> None:
        """Begin; a request that nothing can steer costs nothing."""
        self.reserve(request.slot + 1)
        self.changed(request)

    def changed(self, request: FollowedRequest) -> None:
        """Its steering changed (a rule tripped): what is kept holds nowhere."""
        slot = request.slot
        self._steered[slot] = bool(request.plan.steering or request.added)
        self._n_steered = int(self._steered.sum())
        self._from[slot], self._until[slot] = 0, 0 if self._steered[slot] else FOREVER

    def close(self, slot: int) -> None:
        """The request ended."""
        if slot < len(self._steered):
            self._steered[slot], self._until[slot] = False, FOREVER
            self._n_steered = int(self._steered.sum())

    def clear(self) -> None:
        """Nothing is steered in the coming step."""
        if self._table.in_use:
            self._table.fill(0, _NO_ROWS, _NO_LINES, self._none)

    def fill(self, step: StepRows, followed: Mapping[int, FollowedRequest]) -> None:
        """Write the table for ``step``; ``followed`` are the requests by slot."""
        if not self._n_steered:
            self.clear()
            return
        steered: Ints = np.flatnonzero(self._steered[step.row_slots])
        if not len(steered):
            self.clear()
            return
        slots, positions = step.row_slots[steered], step.row_positions[steered]
        needs = self._none.copy()
        stale = (positions >= self._until[slots]) | (positions < self._from[slots])
        if not stale.any():
            self._table.fill(step.n_tokens, steered, self._fields[slots], np.any(self._needs[slots], axis=0))
            return
        fields = np.empty((len(steered), *self._fields.shape[1:]), dtype=np.float32)
        for slot in np.unique(slots):
            mine = np.flatnonzero(slots == slot)
            first = int(positions[mine[0]])
            begin, last = first, first + len(mine)
            while begin < last:
                end = min(last, self._renew(followed[int(slot)], begin))
                fields[mine[begin - first : end - first]] = self._fields[slot]
                needs |= self._needs[slot]
                begin = end
        self._table.fill(step.n_tokens, steered, fields, needs)

    def _renew(self, request: FollowedRequest, position: int) -> int:
        """Make its line for ``position``; returns the position until which it holds."""
        steering, until = request.steering_at(position)
        line, slot = self._table.line(steering), request.slot
        self._fields[slot], self._needs[slot] = line.fields, line.needs
        self._from[slot], self._until[slot] = position, until
        return until

    def _grow(self) -> None:
        """Twice the room."""
        for name in ("_fields", "_needs", "_from", "_until", "_steered"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
