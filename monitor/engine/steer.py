"""The steering table: which change of the residual stream each token gets.

An **entry** is one combination of steerings (entry 0: none). Requests with equal steering share an entry;
entries are counted and reused. There are as many entries as requests can run at once, so the table never
overflows. Tables and the per-token entry index are persistent tensors that the compiled graph reads.

Runs in: vLLM worker; the host fills entries between forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from monitor.errors import PlanError
from monitor.types import Operator, Steering
from probes.bundle import Bundle

_Key = tuple[Steering, ...]


class SteeringTable:
    """Entries for ``add`` (one table per source layer) and ``ablate`` (one for all writes)."""

    def __init__(self, bundle: Bundle, max_tokens: int, max_entries: int, device: torch.device) -> None:
        self._bundle = bundle
        d_model = bundle.manifest.model.d_model
        directions = bundle.manifest.directions
        self.entries = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self.active = torch.zeros(1, dtype=torch.bool)
        rows = max_entries + 1
        self._adds = {d.layer: torch.zeros(rows, d_model, device=device) for d in directions}
        self._units = torch.zeros(rows if directions else 0, d_model, device=device)
        self._strengths = torch.zeros(rows if directions else 0, device=device)
        self._free = list(range(max_entries, 0, -1))
        self._users: dict[_Key, tuple[int, int]] = {}

    def adder(self, layer: int) -> Callable[[Tensor], None] | None:
        """What steers the output of ``layer``, or None if no direction acts there."""
        if layer not in self._adds:
            return None
        table, entries, active = self._adds[layer], self.entries, self.active

        def add(stream: Tensor) -> None:
            torch.ops.vllm.plumbline_add(stream, table, entries, active)

        return add

    def ablater(self) -> Callable[[Tensor], None] | None:
        """What projects one write, or None if the bundle has no directions."""
        if not self._adds:
            return None
        units, strengths, entries, active = self._units, self._strengths, self.entries, self.active

        def ablate(write: Tensor) -> None:
            torch.ops.vllm.plumbline_ablate(write, units, strengths, entries, active)

        return ablate

    def acquire(self, steering: Sequence[Steering]) -> int:
        """The entry of this combination, written if it is new; 0 for none. Pair with :meth:`release`.

        Raises:
            PlanError: an unknown direction, or more than one direction to ablate.
        """
        key = tuple(steering)
        if not key:
            return 0
        entry, users = self._users.get(key, (0, 0))
        if not users:
            adds, unit, strength = self._vectors(key)
            entry = self._free.pop()
            for layer, table in self._adds.items():
                table[entry] = adds[layer]
            self._units[entry] = unit
            self._strengths[entry] = strength
        self._users[key] = (entry, users + 1)
        return entry

    def release(self, steering: Sequence[Steering]) -> None:
        """Give back what :meth:`acquire` returned."""
        key = tuple(steering)
        if not key:
            return
        entry, users = self._users[key]
        if users > 1:
            self._users[key] = (entry, users - 1)
            return
        del self._users[key]
        self._free.append(entry)

    def set_rows(self, entries: Tensor) -> None:
        """Each token's entry for the coming step: ``(n_tokens,)`` int64 on the CPU; padding gets 0."""
        self.entries.zero_()
        steered = bool(entries.any())
        if steered:
            self.entries[: entries.shape[0]].copy_(entries, non_blocking=True)
        self.active[0] = steered

    def _vectors(self, key: _Key) -> tuple[dict[int, Tensor], Tensor, float]:
        adds = {layer: torch.zeros_like(table[0]) for layer, table in self._adds.items()}
        unit, strength = torch.zeros_like(self._units[0]), 0.0
        ablated = [s.direction for s in key if s.operator is Operator.ABLATE]
        if len(set(ablated)) > 1 or len(ablated) > 1:
            raise PlanError(f"one direction can be ablated in a request, got {len(ablated)}: {', '.join(ablated)}")
        for steering in key:
            direction = self._bundle.manifest.direction(steering.direction)
            if direction is None:
                known = ", ".join(d.name for d in self._bundle.manifest.directions) or "none"
                raise PlanError(f"unknown direction {steering.direction!r}; the bundle has: {known}")
            vector = torch.from_numpy(self._bundle.direction_vector(direction.name).copy()).to(unit.device)
            if steering.operator is Operator.ADD:
                adds[direction.layer] += steering.strength * direction.magnitude * vector
            else:
                unit, strength = vector, steering.strength
        return adds, unit, strength
