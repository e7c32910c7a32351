"""All open requests, fed by the frame receiver and read by the guard.

Runs in: the monitor, one event loop; not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from monitor.errors import FrameError
from monitor.fanout import Fanout
from monitor.frames import DetectorState, Frame, Hello, RequestScores
from monitor.policy.plan import GatePlan
from monitor.session.state import Session, token_score
from monitor.types import TokenScore


class ScoreUpdate(msgspec.Struct, frozen=True):
    """What one frame said about one choice of one request; for watchers.

    Attributes:
        n_prompt: prompt tokens; a ``position`` below it is a prompt token.
        token_scores: the tokens of this step.
        detectors: cumulative. seen, scored: cumulative. stopped, ended: as in the frame.
    """

    request_id: str
    choice: int
    n_prompt: int
    token_scores: tuple[TokenScore, ...]
    detectors: tuple[DetectorState, ...]
    seen: int
    scored: int
    stopped: str | None
    ended: bool


@dataclass(slots=True)
class _Source:
    """The frames of one rank: ``sequence`` is the newest one taken, ``promised`` what its last heartbeat named."""

    epoch: str
    sequence: int
    promised: int


class SessionTable:
    """All open requests, by request id; applies the frames to them.

    Attributes:
        columns: order of the token scores, from the engine's handshake.
        updates: what watchers see.
    """

    def __init__(self, columns: Sequence[str], on_drop: Callable[[str, int], None]) -> None:
        self.columns = tuple(columns)
        self._on_drop = on_drop
        self.updates: Fanout[ScoreUpdate] = Fanout(lambda: on_drop("slow_watcher", 1))
        self._sessions: dict[str, Session] = {}
        self._sources: dict[int, _Source] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, plan: GatePlan, *, keep_scores: bool = False) -> Session:
        """Start to follow a request; call before the engine can know of it."""
        session = Session(plan, keep_scores=keep_scores)
        self._sessions[plan.request_id] = session
        return session

    def close(self, session: Session) -> None:
        """Stop following a request."""
        self._sessions.pop(session.plan.request_id, None)

    def apply(self, frame: Frame, rank: int = 0) -> None:
        """Take over one frame of our bundle's engine, from one of its ranks."""
        source = self._sources.get(rank)
        if source is None or frame.epoch != source.epoch:
            self.forget(rank)
            before = frame.sequence if isinstance(frame, Hello) else frame.sequence - 1
            source = self._sources[rank] = _Source(frame.epoch, before, before)
        if isinstance(frame, Hello):
            self.columns = frame.probes
            self._reach(source, source.promised)
            source.promised = frame.sequence
            return
        self._reach(source, frame.sequence - 1)
        source.sequence = max(source.sequence, frame.sequence)
        for part in frame.requests:
            try:
                self._apply_part(part, rank)
            except FrameError:
                self._on_drop("bad_scores", 1)

    def forget(self, rank: int) -> None:
        """A rank is gone: no more frames come for the requests that it may have had."""
        if self._sources.pop(rank, None) is None:
            return
        for session in self._sessions.values():
            if session.may_run_on(rank):
                session.restarted = True
                session.wake()

    def _reach(self, source: _Source, sequence: int) -> None:
        """All frames up to ``sequence`` must have been here by now; those that were not are lost.

        A heartbeat may overtake frames that wait to be sent, so what it names is expected by the next one.
        """
        missing = sequence - source.sequence
        if missing <= 0:
            return
        source.sequence = sequence
        self._on_drop("lost", missing)
        for session in self._sessions.values():
            session.gapped = True

    def _apply_part(self, part: RequestScores, rank: int) -> None:
        if self.updates:
            self.updates.publish(self._update(part))
        session = self._sessions.get(part.request_id)
        if session is None or session.restarted:
            return
        if part.plan != session.digest or not 0 <= part.choice < len(session.choices):
            self._on_drop("foreign_plan", 1)
            return
        state = session.choices[part.choice]
        state.rank = rank
        state.apply(part, len(self.columns), gapped=session.gapped, keep=session.keep_scores)
        session.wake()

    def _update(self, part: RequestScores) -> ScoreUpdate:
        rows = part.matrix(len(self.columns))
        scores = tuple(token_score(part.first + i, row, self.columns) for i, row in enumerate(rows))
        return ScoreUpdate(
            request_id=part.request_id,
            choice=part.choice,
            n_prompt=part.n_prompt,
            token_scores=scores,
            detectors=part.detectors,
            seen=part.seen,
            scored=part.scored,
            stopped=part.stopped,
            ended=part.ended,
        )
