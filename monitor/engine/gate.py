"""Fold token scores into each request's state and decide, between forward pass and release.

One evaluator for every rule that is decided in the step. A rule on the prompt (``last_user``, ``prompt``) is decided
once, at the prompt's last token; a rule on the response at every response token; a trip is latched. Each position is
folded exactly once and in order, whatever the scheduler does: chunked prefill continues where the last chunk ended, a
recomputed position (preemption) is passed over, a position that the prefix cache provided is folded from the kept
scores.

Everything stands in arrays by request slot, so that a step is one call of :mod:`monitor.engine.fold_kernel`.

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.engine.fold_kernel import COUNT, KINDS, STATE, fold_rows, parameter
from monitor.engine.instrument import QUERY
from monitor.engine.request import FollowedRequest
from monitor.engine.row_kernel import tell
from monitor.policy.plan import DetectorPlan
from monitor.types import Action
from probes.scope import OPEN_END, scope_interval
from probes.types import FoldKind, Manifest, Probe, Scope

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
_BY_SLOT = ("followed", "position", "scored", "folded", "_inside", "_decides", "_lowest", "_state", "_recent")


class Gate:
    """The running state of every followed request.

    Args:
        manifest: of the bundle. columns: what the taps write, in order. capacity: request slots.

    Attributes:
        probes: names, the order of ``folded``.
        followed: ``(capacity,)`` bool: slots whose request has a plan.
        position: ``(capacity,)`` first position that is not folded yet.
        scored: ``(capacity,)`` positions folded with a score.
        folded: ``(capacity, n_probes)`` newest folded scores; NaN: unscored.
    """

    def __init__(self, manifest: Manifest, columns: Sequence[str], capacity: int) -> None:
        self._manifest = manifest
        found = (manifest.probe(name) for name in columns)
        self._probes: list[Probe] = [p for p in found if p is not None]
        self.probes = tuple(p.name for p in self._probes)
        folds = [p.fold for p in self._probes]
        self._specs = (
            np.array([KINDS[f.kind] for f in folds], dtype=np.int64),
            np.array([parameter(f) for f in folds], dtype=np.float64),
            np.array([f.window for f in folds], dtype=np.int64),
            np.array([f.min_tokens for f in folds], dtype=np.int64),
            np.array([columns.index(p.name) for p in self._probes], dtype=np.int64),
            np.array([_query_column(p, columns) for p in self._probes], dtype=np.int64),
        )
        n, longest = len(folds), max((f.window for f in folds), default=1)
        self.followed = np.zeros(capacity, dtype=np.bool_)
        self.position = np.zeros(capacity, dtype=np.int64)
        self.scored = np.zeros(capacity, dtype=np.int64)
        self.folded: Floats = np.full((capacity, n), np.nan)
        self._inside = np.zeros((capacity, n, 2), dtype=np.int64)
        self._decides = np.zeros((capacity, n, 2), dtype=np.int64)
        self._lowest: Floats = np.full((capacity, n), np.inf)
        self._state: Floats = np.zeros((capacity, n, STATE))
        self._recent: Floats = np.zeros((capacity, n, longest))
        no_rows: Ints = np.zeros(0, dtype=np.int64)
        self._fold_rows(no_rows, no_rows, np.zeros((0, len(columns)), dtype=np.float32))  # compile now, not in a step
        self.told(no_rows, no_rows, 0)

    def reserve(self, capacity: int) -> None:
        """Make room for as many request slots; also those of requests that are not followed stand in a step's rows."""
        while len(self.position) < capacity:
            self._grow()

    def open(self, request: FollowedRequest, prompt: Sequence[int]) -> None:
        """Start following a request, from position 0."""
        slot, n_prompt = request.slot, request.n_prompt
        self.reserve(slot + 1)
        self.followed[slot] = True
        self.position[slot] = self.scored[slot] = 0
        self.folded[slot] = np.nan
        self._state[slot, :, COUNT:] = 0.0
        used = {d.probe for d in request.detectors}
        scopes = {self._probes[i].scope for i in used}
        inside = {scope: scope_interval(scope, prompt, self._manifest.model.markers) for scope in scopes}
        self._inside[slot] = 0
        for i in used:
            self._inside[slot, i] = inside[self._probes[i].scope]
            self._decides[slot, i] = _decision_interval(self._probes[i].scope, n_prompt)
        self._set_lowest(request)

    def close(self, slot: int) -> None:
        """Stop following it; what is known about it stays until the slot is opened again."""
        if slot < len(self.followed):
            self.followed[slot] = False

    def fold(
        self, slots: Ints, positions: Ints, scores: Scores, requests: Mapping[int, FollowedRequest], begins: Ints
    ) -> list[FollowedRequest]:
        """Fold rows in order, and decide; returns the requests of which a rule tripped.

        Args:
            slots: ``(n,)`` request slots of the rows; rows that are not followed are passed over.
            positions: ``(n,)`` absolute positions; so is one that is not its request's next.
            scores: ``(n, n_columns)`` fp32; NaN: unscored.
            requests: the followed ones by slot.
            begins: by slot, the first position that no forward pass has begun: where a rule that steers sets in.
        """
        reached = self._fold_rows(slots, positions, scores)
        if reached is None:
            return []
        tripped = {}
        for row in np.flatnonzero(~np.isnan(reached).all(axis=1)).tolist():
            slot = int(slots[row])
            if _trip(requests[slot], reached[row], int(positions[row]), int(begins[slot])):
                tripped[slot] = requests[slot]
        for request in tripped.values():
            self._set_lowest(request)
        return list(tripped.values())

    def told(self, slots: Ints, before: Ints, row_bytes: int) -> tuple[Ints, Ints, Floats]:
        """What is new of the requests in ``slots``; see :func:`monitor.engine.row_kernel.tell`."""
        return tell(slots, before, self.followed, self.position, self.scored, self.folded, row_bytes)  # type: ignore[no-any-return]  # as numba

    def _fold_rows(self, slots: Ints, positions: Ints, scores: Scores) -> Floats | None:
        """The folded scores that reach a threshold, ``(n, n_probes)``, NaN elsewhere; None if none does."""
        reached: Floats = np.empty((len(slots), len(self._probes)))
        tripped = fold_rows(
            slots, positions, scores, *self._specs, self.followed, self._inside, self._decides, self._lowest,
            self._state, self._recent, self.position, self.scored, self.folded, reached,
        )  # fmt: skip
        return reached if tripped else None

    def _set_lowest(self, request: FollowedRequest) -> None:
        """The lowest threshold of each probe that has not tripped: what the kernel compares with."""
        lowest = self._lowest[request.slot]
        lowest[:] = np.inf
        for d in request.detectors:
            if d.trip_position is None:
                lowest[d.probe] = min(lowest[d.probe], d.plan.threshold)

    def _grow(self) -> None:
        """Twice the room: more requests are open than were expected (preempted ones keep their state)."""
        for name in _BY_SLOT:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))


def _trip(request: FollowedRequest, reached: Floats, position: int, begin: int) -> bool:
    """Latch the rules whose threshold is reached at this position, and carry out what they demand."""
    tripped = False
    for detector in request.detectors:
        if detector.trip_position is None and reached[detector.probe] >= detector.plan.threshold:
            detector.trip_position, detector.trip_score = position, float(reached[detector.probe])
            tripped = True
            if request.plan.enforce and request.failed is None:
                _act(request, detector.plan, max(begin, position + 1))
    return tripped


def _query_column(probe: Probe, columns: Sequence[str]) -> int:
    """The column of an attention probe's queries; any column for the others, which ignore it."""
    return columns.index(probe.name + QUERY) if probe.fold.kind is FoldKind.ATTENTION else 0


def _decision_interval(scope: Scope, n_prompt: int) -> tuple[int, int]:
    """Where a rule of this scope may trip: at the prompt's end, or at each response token."""
    match scope:
        case Scope.LAST_USER | Scope.PROMPT:
            return n_prompt - 1, n_prompt
        case Scope.RESPONSE:
            return n_prompt, OPEN_END
        case Scope.ALL:
            return n_prompt - 1, OPEN_END


def _act(request: FollowedRequest, rule: DetectorPlan, begin: int) -> None:
    """Carry out what a rule demands that tripped."""
    if rule.action in (Action.STOP, Action.REPLACE) and request.stopped is None:
        request.stopped = rule.rule
    if rule.action is Action.STEER:
        request.added += [(begin, steering) for steering in rule.steering]
