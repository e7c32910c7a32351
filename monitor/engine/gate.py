"""Fold token scores into each request's state and decide, between forward pass and release.

One evaluator for every rule that is decided in the step. A rule on the prompt (``last_user``, ``prompt``)
is decided once, at the prompt's last token; a rule on the response at every response token; a trip is
latched. Each position is folded exactly once and in order, whatever the scheduler does: chunked prefill
continues where the last chunk ended, a recomputed position (preemption) is skipped, a position that the
prefix cache provided is folded from the kept scores.

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from monitor.frames import DetectorState, RequestScores
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action, Steering, SteeringScope
from probes.fold import init_state, update
from probes.scope import scope_interval
from probes.types import Manifest, Probe, RoleMarkers, Scope


@dataclass(slots=True)
class _Detector:
    plan: DetectorPlan
    column: int
    score: float | None = None
    trip_position: int | None = None
    trip_score: float | None = None

    def state(self) -> DetectorState:
        return DetectorState(self.plan.rule, self.score, self.trip_position, self.trip_score)


@dataclass(slots=True)
class GateState:
    """One request's running state.

    Attributes:
        slot: its request slot, a row of the fold states.
        position: first position that is not folded yet.
        scored: positions folded with a score.
        cache_misses: of the others, those that a prefix-cache hit provided without kept scores.
        added: steering of rules that tripped, each with the first position at which it acts.
        stopped: the rule that ended it, or None.
    """

    plan: GatePlan
    choice: int
    n_prompt: int
    slot: int
    scopes: Tensor
    detectors: list[_Detector]
    added: list[tuple[int, tuple[Steering, ...]]] = field(default_factory=list)
    position: int = 0
    scored: int = 0
    cache_misses: int = 0
    stopped: str | None = None

    @property
    def steers(self) -> bool:
        """Whether anything steers it."""
        return bool(self.plan.steering or self.added)

    def steering_at(self, position: int) -> tuple[Steering, ...]:
        """What acts on the token at this position, now and whenever it is computed again."""
        part = SteeringScope.PROMPT if position < self.n_prompt else SteeringScope.RESPONSE
        later = (s for begin, steering in self.added if position >= begin for s in steering)
        return tuple(s for s in (*self.plan.steering, *later) if s.scope in (part, SteeringScope.ALL))

    def stretches(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """``[start, end)`` in pieces within which :meth:`steering_at` does not change."""
        edges = {self.n_prompt, *(begin for begin, _ in self.added)}
        return pairwise([start, *sorted(edge for edge in edges if start < edge < end), end])

    def report(self, first: int, scores: Tensor | None, *, ended: bool = False) -> RequestScores:
        """This request's part of a frame; ``scores`` is ``(n_tokens, n_columns)`` fp32 or None."""
        return RequestScores(
            request_id=self.plan.request_id,
            choice=self.choice,
            plan=self.plan.digest,
            n_prompt=self.n_prompt,
            first=first,
            scores=b"" if scores is None else scores.contiguous().numpy().tobytes(),
            seen=self.position,
            scored=self.scored,
            detectors=tuple(d.state() for d in self.detectors),
            stopped=self.stopped,
            ended=ended,
            cache_misses=self.cache_misses,
        )


@dataclass(frozen=True)
class Chunk:
    """New positions of one request, from ``state.position`` on.

    Attributes:
        scores: ``(n_tokens, n_columns)`` fp32 on the CPU.
        n_kept: leading rows that came from the score cache.
    """

    state: GateState
    scores: Tensor
    n_kept: int = 0


@dataclass
class Gate:
    """Fold states of all running requests; columns in the order of ``columns``."""

    manifest: Manifest
    columns: Sequence[str]
    capacity: int
    _probes: list[Probe] = field(init=False)
    _folds: list[Tensor] = field(init=False)
    _free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        by_name = {p.name: p for p in self.manifest.probes}
        self._probes = [by_name[name] for name in self.columns]
        self._folds = [init_state(p.fold, self.capacity) for p in self._probes]
        self._free = list(range(self.capacity - 1, -1, -1))

    def open(self, plan: GatePlan, choice: int, prompt: Sequence[int], markers: RoleMarkers) -> GateState:
        """Start following a request."""
        slot = self._free.pop() if self._free else self._grow()
        for fold in self._folds:
            fold[slot] = 0.0
        column = {name: i for i, name in enumerate(self.columns)}
        scopes = [scope_interval(p.scope, prompt, markers) for p in self._probes]
        return GateState(
            plan=plan,
            choice=choice,
            n_prompt=len(prompt),
            slot=slot,
            scopes=torch.tensor(scopes),
            detectors=[_Detector(d, column[d.probe]) for d in plan.detectors],
        )

    def close(self, state: GateState) -> None:
        """Stop following it; its slot is free again."""
        self._free.append(state.slot)

    def fold(self, chunks: Sequence[Chunk]) -> None:
        """Fold one step's new positions into their requests, and decide.

        Requests with one new token (decode) are folded together, longer chunks (prefill) one by one.
        """
        decode = [c for c in chunks if c.scores.shape[0] == 1]
        if decode:
            self._fold_equal([c.state for c in decode], torch.stack([c.scores for c in decode]))
        for chunk in chunks:
            if chunk.scores.shape[0] > 1:
                self._fold_equal([chunk.state], chunk.scores[None])
            chunk.state.cache_misses += int(torch.isnan(chunk.scores[: chunk.n_kept]).any(1).sum())

    def _fold_equal(self, states: Sequence[GateState], scores: Tensor) -> None:
        """``scores``: ``(n_requests, n_tokens, n_columns)``, from each state's position on."""
        n_tokens = scores.shape[1]
        slots = torch.tensor([s.slot for s in states])
        first = torch.tensor([s.position for s in states])[:, None]
        positions = first + torch.arange(n_tokens)
        n_prompt = torch.tensor([s.n_prompt for s in states])[:, None]
        scopes = torch.stack([s.scopes for s in states])
        used = {d.column for s in states for d in s.detectors}
        for column in sorted(used):
            probe = self._probes[column]
            inside = (positions >= scopes[:, column, :1]) & (positions < scopes[:, column, 1:])
            if not inside.any():  # a rule on the prompt while the response is written: nothing changes
                continue
            token_scores = scores[:, :, column].masked_fill(~inside, torch.nan)
            values, self._folds[column][slots] = update(probe.fold, self._folds[column][slots], token_scores)
            decides = _decision_positions(probe.scope, positions, n_prompt)
            self._decide(states, column, values, values.masked_fill(~decides, torch.nan))
        n_scored = (~torch.isnan(scores)).all(2).sum(1).tolist()
        for state, scored in zip(states, n_scored, strict=True):
            state.position += n_tokens
            state.scored += scored

    @staticmethod
    def _decide(states: Sequence[GateState], column: int, values: Tensor, decided: Tensor) -> None:
        """Compare with each request's thresholds; ``values`` and ``decided`` are ``(n_requests, n_tokens)``."""
        newest = values[:, -1].tolist()
        highest = torch.nan_to_num(decided, nan=-torch.inf).amax(1).tolist()
        for row, state in enumerate(states):
            for detector in state.detectors:
                if detector.column != column:
                    continue
                detector.score = None if newest[row] != newest[row] else newest[row]  # NaN: unscored
                if detector.trip_position is None and highest[row] >= detector.plan.threshold:
                    token = int((decided[row] >= detector.plan.threshold).nonzero()[0, 0])
                    detector.trip_position = state.position + token
                    detector.trip_score = float(decided[row, token])
                    _act(state, detector, values.shape[1])

    def _grow(self) -> int:
        """More requests are open than were expected (preempted ones keep their state): double the room."""
        self._folds = [torch.cat([fold, torch.zeros_like(fold)]) for fold in self._folds]
        self._free = list(range(2 * self.capacity - 1, self.capacity - 1, -1))
        self.capacity *= 2
        return self._free.pop()


def _decision_positions(scope: Scope, positions: Tensor, n_prompt: Tensor) -> Tensor:
    """Where a rule of this scope may trip: at the prompt's end, or at each response token."""
    match scope:
        case Scope.LAST_USER | Scope.PROMPT:
            return positions == n_prompt - 1
        case Scope.RESPONSE:
            return positions >= n_prompt
        case Scope.ALL:
            return positions >= n_prompt - 1


def _act(state: GateState, detector: _Detector, n_tokens: int) -> None:
    """Carry out what a rule demands that tripped in a step of ``n_tokens``, unless the plan only observes."""
    if not state.plan.enforce:
        return
    if detector.plan.action is Action.STOP and state.stopped is None:
        state.stopped = detector.plan.rule
    if detector.plan.action is Action.STEER:
        state.added.append((state.position + n_tokens, detector.plan.steering))
