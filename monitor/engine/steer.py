"""The steering table: which change of the residual stream each token gets.

The directions of a bundle are fixed; a request chooses strengths. An **entry** is one line of strengths, one for
each direction and operator (entry 0: all zero), and every token of a step points at an entry. Tables and the
per-token index are persistent tensors that the compiled graph reads; the host fills them between forward passes.

An entry is written when a combination is first seen and kept until its place is needed: the least recently used
one makes room. There are as many entries as a step can have tokens, so what the coming step uses is never evicted.

Runs in: vLLM worker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from monitor.errors import PlanError
from monitor.types import Operator, Steering
from probes.bundle import Bundle

Change = Callable[[Tensor], None]


class SteeringTable:
    """Strengths by entry: ``add`` for each direction at its own layer, ``ablate`` for all writes."""

    def __init__(self, bundle: Bundle, max_tokens: int, device: torch.device) -> None:
        directions = bundle.manifest.directions
        self._index = {d.name: i for i, d in enumerate(directions)}
        self._layers = [d.layer for d in directions]
        rows = max_tokens + 1
        vectors = [torch.from_numpy(bundle.direction_vector(d.name).copy()) for d in directions]
        d_model = bundle.manifest.model.d_model
        self._units = torch.stack(vectors).to(device) if vectors else torch.zeros(0, d_model, device=device)
        self._magnitudes = torch.tensor([d.magnitude for d in directions], device=device)
        self._adds = torch.zeros(rows, len(directions), device=device)
        self._ablates = torch.zeros(rows, len(directions), device=device)
        self.entries = torch.zeros(max_tokens, dtype=torch.int64, device=device)
        self.adding, self.ablating = torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
        self._free = list(range(rows - 1, 0, -1))
        self._with_adds: set[int] = set()
        self._with_ablates: set[int] = set()
        self._known: OrderedDict[tuple[Steering, ...], int] = OrderedDict()

    def adder(self, layer: int) -> Change | None:
        """What steers the output of ``layer``, or None if no direction acts there."""
        here = [i for i, at in enumerate(self._layers) if at == layer]
        if not here:
            return None
        vectors = torch.zeros_like(self._units)
        vectors[here] = self._units[here] * self._magnitudes[here, None]
        strengths, entries, active = self._adds, self.entries, self.adding

        def add(stream: Tensor) -> None:
            torch.ops.vllm.plumbline_add(stream, vectors, strengths, entries, active)

        return add

    def ablater(self) -> Change | None:
        """What projects one write, or None if the bundle has no directions."""
        if not self._layers:
            return None
        units, strengths, entries, active = self._units, self._ablates, self.entries, self.ablating

        def ablate(write: Tensor) -> None:
            torch.ops.vllm.plumbline_ablate(write, units, strengths, entries, active)

        return ablate

    def entry(self, steering: Sequence[Steering]) -> int:
        """The entry of this combination, written if it is new; 0 for none.

        Raises:
            PlanError: an unknown direction.
        """
        key = tuple(steering)
        if not key:
            return 0
        if (entry := self._known.get(key)) is None:
            adds, ablates = self._strengths(key)
            entry = self._free.pop() if self._free else self._known.popitem(last=False)[1]
            self._adds[entry], self._ablates[entry] = adds, ablates
            for entries, strengths in ((self._with_adds, adds), (self._with_ablates, ablates)):
                (entries.add if bool(strengths.any()) else entries.discard)(entry)
            self._known[key] = entry
        self._known.move_to_end(key)
        return entry

    def set_rows(self, entries: Tensor) -> None:
        """Each token's entry for the coming step: ``(n_tokens,)`` int64 on the CPU; padding gets 0."""
        self.entries.zero_()
        used = set(entries.tolist()) - {0}
        if used:
            self.entries[: entries.shape[0]].copy_(entries, non_blocking=True)
        self.adding[0] = not used.isdisjoint(self._with_adds)
        self.ablating[0] = not used.isdisjoint(self._with_ablates)

    def _strengths(self, key: tuple[Steering, ...]) -> tuple[Tensor, Tensor]:
        """Lines of the two tables; equal directions add up, or leave what both ablations leave."""
        adds, kept = torch.zeros_like(self._adds[0]), torch.ones_like(self._ablates[0])
        for steering in key:
            if (index := self._index.get(steering.direction)) is None:
                known = ", ".join(self._index) or "none"
                raise PlanError(f"unknown direction {steering.direction!r}; the bundle has: {known}")
            if steering.operator is Operator.ADD:
                adds[index] += steering.strength
            else:
                kept[index] *= 1.0 - steering.strength
        return adds, 1.0 - kept
