"""Fold token scores into each request's state and decide, between forward pass and release.

One evaluator for every rule that is decided in the step. A rule on the prompt (``last_user``, ``prompt``) is decided
once, at the prompt's last token; a rule on the response at every response token; a trip is latched. Each position is
folded exactly once and in order, whatever the scheduler does: chunked prefill continues where the last chunk ended, a
recomputed position (preemption) is skipped, a position that the prefix cache provided is folded from the kept scores.

What does not change while a request runs (scopes, thresholds) stands in arrays by request slot, so that a decode step
is folded and compared for all requests and probes at once.

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor.engine.folds import Folds
from monitor.engine.request import FollowedRequest
from monitor.policy.plan import DetectorPlan
from monitor.types import Action
from probes.scope import OPEN_END, scope_interval
from probes.types import FoldKind, Manifest, Probe, Scope

QUERY = ".query"
"""Suffix of an attention probe's second column."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Gate:
    """The running state of every followed request.

    Args:
        manifest: of the bundle. columns: what the taps write, in order. capacity: request slots.

    Attributes:
        probes: names, the order of ``folded``.
        position: ``(capacity,)`` first position that is not folded yet.
        scored: ``(capacity,)`` positions folded with a score.
        folded: ``(capacity, n_probes)`` newest folded scores; NaN: unscored.
    """

    def __init__(self, manifest: Manifest, columns: Sequence[str], capacity: int) -> None:
        self._manifest = manifest
        found = (manifest.probe(name) for name in columns)
        self._probes: list[Probe] = [p for p in found if p is not None]
        self.probes = tuple(p.name for p in self._probes)
        self._values = np.array([columns.index(p.name) for p in self._probes], dtype=np.int64)
        attention = any(p.fold.kind is FoldKind.ATTENTION for p in self._probes)
        self._queries = np.array([_query_column(p, columns) for p in self._probes]) if attention else None
        self._folds = Folds([p.fold for p in self._probes], capacity)
        n = len(self._probes)
        self.position = np.zeros(capacity, dtype=np.int64)
        self.scored = np.zeros(capacity, dtype=np.int64)
        self.folded: Floats = np.full((capacity, n), np.nan)
        self._inside = np.zeros((capacity, n, 2), dtype=np.int64)
        self._decides = np.zeros((capacity, n, 2), dtype=np.int64)
        self._lowest: Floats = np.full((capacity, n), np.inf)

    def open(self, request: FollowedRequest, prompt: Sequence[int]) -> None:
        """Start following a request, from position 0."""
        slot, n_prompt = request.slot, request.n_prompt
        while slot >= len(self.position):
            self._grow()
        self._folds.open(slot)
        self.position[slot] = self.scored[slot] = 0
        self.folded[slot] = np.nan
        used = {d.probe for d in request.detectors}
        scopes = {self._probes[i].scope for i in used}
        inside = {scope: scope_interval(scope, prompt, self._manifest.model.markers) for scope in scopes}
        for i, probe in enumerate(self._probes):
            self._inside[slot, i] = inside[probe.scope] if i in used else (0, 0)
            self._decides[slot, i] = _decision_interval(probe.scope, n_prompt)
        self._set_lowest(request)

    def fold_decode(
        self, requests: Sequence[FollowedRequest], slots: Ints, positions: Ints, scores: Scores, begins: Ints
    ) -> list[FollowedRequest]:
        """One new token for each request, at once; returns those of which a rule tripped.

        Args:
            requests: in the order of ``slots``.
            slots: ``(n,)`` request slots. positions: ``(n,)``, of the new tokens.
            scores: ``(n, n_columns)`` fp32; NaN: unscored.
            begins: ``(n,)`` first positions that no forward pass has begun: where a rule that steers sets in.
        """
        at, inside, decides = positions[:, None], self._inside[slots], self._decides[slots]
        wanted = (at >= inside[..., 0]) & (at < inside[..., 1])
        tripped: list[FollowedRequest] = []
        if wanted.any():
            values = np.where(wanted, scores[:, self._values], np.nan)
            queries = None if self._queries is None else scores[:, self._queries]
            folded = self.folded[slots] = self._folds.advance(slots, values, queries)
            trips: Bools = (folded >= self._lowest[slots]) & (at >= decides[..., 0]) & (at < decides[..., 1])
            for row in np.flatnonzero(np.any(trips, axis=1)).tolist():
                one = slice(row, row + 1)
                tripped.append(requests[row])
                self._trip(requests[row], folded[one], trips[one], int(positions[row]), int(begins[row]))
        self.position[slots] = positions + 1
        self.scored[slots] += ~np.isnan(scores).any(1)
        return tripped

    def fold_chunk(self, request: FollowedRequest, scores: Scores, n_kept: int, begin: int) -> bool:
        """Several new tokens of one request, from its position on; returns whether a rule tripped.

        Args:
            scores: ``(n_tokens, n_columns)`` fp32. n_kept: leading rows that came from the score cache.
            begin: first position that no forward pass has begun.
        """
        slot, first = request.slot, int(self.position[request.slot])
        at = np.arange(first, first + len(scores))[:, None]
        inside, decides = self._inside[slot], self._decides[slot]
        wanted = (at >= inside[:, 0]) & (at < inside[:, 1])
        tripped = False
        if wanted.any():
            values = np.where(wanted, scores[:, self._values], np.nan)
            queries = None if self._queries is None else scores[:, self._queries]
            folded = self._folds.advance_chunk(slot, values, queries)
            self.folded[slot] = folded[-1]
            trips: Bools = (folded >= self._lowest[slot]) & (at >= decides[:, 0]) & (at < decides[:, 1])
            if tripped := bool(np.any(trips)):
                self._trip(request, folded, trips, first, begin)
        missing: Bools = np.any(np.isnan(scores), axis=1)
        request.cache_misses += int(missing[:n_kept].sum())
        self.position[slot] = first + len(scores)
        self.scored[slot] += int((~missing).sum())
        return tripped

    def _trip(self, request: FollowedRequest, folded: Floats, trips: Bools, first: int, begin: int) -> None:
        """Find where each rule tripped; ``folded`` and ``trips`` are ``(n_tokens, n_probes)`` from ``first`` on."""
        for detector in request.detectors:
            if detector.trip_position is not None:
                continue
            reached = trips[:, detector.probe] & (folded[:, detector.probe] >= detector.plan.threshold)
            if reached.any():
                token = int(reached.argmax())
                detector.trip_position = first + token
                detector.trip_score = float(folded[token, detector.probe])
                if request.plan.enforce:
                    _act(request, detector.plan, begin)
        self._set_lowest(request)

    def _set_lowest(self, request: FollowedRequest) -> None:
        """The lowest threshold of each probe that has not tripped: what a decode step is compared with."""
        lowest = self._lowest[request.slot]
        lowest[:] = np.inf
        for d in request.detectors:
            if d.trip_position is None:
                lowest[d.probe] = min(lowest[d.probe], d.plan.threshold)

    def _grow(self) -> None:
        """Twice the room: more requests are open than were expected (preempted ones keep their state)."""
        self._folds.grow()
        for name in ("position", "scored", "folded", "_inside", "_decides", "_lowest"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))


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
