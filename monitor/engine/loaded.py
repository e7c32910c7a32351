"""Directions that are loaded into the running engine, into the spare lines of the steering table.

A plan names ``folder:direction@digest``. The line is written when the first request that names it opens, and stays
until its place is needed and no open request names it.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from monitor.engine.request import all_steering
from monitor.engine.steer import SteeringTable
from monitor.errors import PlanError
from monitor.policy.directions import is_loaded, read_loaded
from monitor.policy.plan import GatePlan
from probes.bundle import TrustedKeys

N_SPARE = 16
"""Lines for loaded directions: how many different ones running requests may name at once."""


class LoadedDirections:
    """Spare lines and who uses them.

    Args:
        table: the steering table. folder: of the bundles (``PLUMBLINE_DIRECTIONS``), or None.
        n_own: lines of the engine's own bundle; those after them are spare. d_model: of the model.
        trusted: keys of which one must have signed a bundle; None asks for no signature.
    """

    def __init__(
        self,
        table: SteeringTable,
        folder: Path | None,
        n_own: int,
        d_model: int,
        trusted: TrustedKeys | None = None,
    ) -> None:
        self._trusted = trusted
        self._table, self._folder, self._d_model = table, folder, d_model
        self._free = list(range(table.size - 1, n_own - 1, -1))
        self._lines: OrderedDict[str, int] = OrderedDict()
        self._holders: dict[str, set[int]] = {}
        self._held: dict[int, tuple[str, ...]] = {}

    def hold(self, slot: int, plan: GatePlan) -> None:
        """See that every direction that ``plan`` names is in the table while ``slot`` is open.

        Raises:
            PlanError: one cannot be read, is for another model, or there is no line left.
        """
        names = tuple({s.direction: None for s in all_steering(plan) if is_loaded(s.direction)})
        if not names:
            return
        for name in names:
            if name not in self._lines:
                self._load(name)
            self._lines.move_to_end(name)
            self._holders.setdefault(name, set()).add(slot)
            self._held[slot] = (*self._held.get(slot, ()), name)

    def release(self, slot: int) -> None:
        """The request ended."""
        for name in self._held.pop(slot, ()):
            self._holders[name].discard(slot)

    def _load(self, name: str) -> None:
        direction, vector = read_loaded(self._folder, name, self._trusted)
        if vector.shape != (self._d_model,) or direction.layer >= self._table.n_layers:
            raise PlanError(
                f"direction {name} has width {vector.shape[0]} and acts at layer {direction.layer}; "
                f"this model has width {self._d_model} and {self._table.n_layers} layers"
            )
        line = self._free.pop() if self._free else self._evict(name)
        self._table.place(line, name, direction, vector)
        self._lines[name] = line

    def _evict(self, name: str) -> int:
        for known, line in self._lines.items():
            if not self._holders.get(known):
                del self._lines[known]
                return line
        raise PlanError(f"no line left for direction {name}: running requests name {len(self._lines)} different ones")
