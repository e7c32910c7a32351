"""What happens around one forward pass: rows and steering before, scores, folds and verdicts after.

    schedule         the scheduler's output: requests that ended, that are new, KV blocks
    before_forward   the runner's order of requests: rows, steering table, poisoned score rows
    after_forward    a copy of the scores to the host begins
    complete         the copy is there: score cache, folds, gate, frame; returns what must stop

On the CPU the copy is there at once. On a GPU ``complete`` runs where vLLM itself waits for the sampled tokens, so that
nothing in the step waits for us; under asynchronous scheduling that is while the next step is on its way.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monitor.engine.follow import Followers
from monitor.engine.gate import Gate
from monitor.engine.instrument import Instrumentation
from monitor.engine.ledger import UNKNOWN, Ledger, StepRows
from monitor.engine.lines import Lines
from monitor.engine.publish import FramePublisher
from monitor.engine.report import report
from monitor.engine.request import FollowedRequest
from monitor.engine.score_cache import ScoreCache
from monitor.engine.stops import Stop
from monitor.frames import RequestScores

log = logging.getLogger(__name__)

Scores = NDArray[np.float32]


@dataclass
class Step:
    """One step on its way.

    Attributes:
        rows: whose rows; None if no forward pass ran.
        ended: slots of requests that ended before it.
        scores: ``(n_tokens, n_columns)`` fp32, on the host once ``ready``. ready: the copy's event; None on the CPU.
    """

    rows: StepRows | None
    ended: list[int]
    scores: Tensor | None = None
    ready: torch.cuda.Event | None = None


class StepHooks:
    """Follows every request of one worker from its first row to its end.

    Attributes:
        received: ``(n, n_columns)``, what the taps of earlier pipeline stages wrote in the coming step, or None.
        stale: why no score can be trusted any more (the weights changed), or None.
    """

    def __init__(
        self, followers: Followers, taps: Instrumentation, gate: Gate, ledger: Ledger, lines: Lines,
        cache: ScoreCache | None, publisher: FramePublisher | None,
    ) -> None:  # fmt: skip
        self._followers, self._taps, self._gate, self._ledger, self._lines = followers, taps, gate, ledger, lines
        self._cache, self._publisher = cache, publisher
        self._steps: deque[Step] = deque()
        self._current: Step | None = None
        self._ended: list[int] = []
        self._lock = threading.RLock()  # on a GPU vLLM waits for sampled tokens in a thread of its own
        self.received: Tensor | None = None
        self.stale: str | None = None

    def schedule(self, output: Any) -> None:
        """Take in a ``SchedulerOutput``, before the runner does."""
        with self._lock:
            self._ended += [
                slot for r in output.finished_req_ids if (slot := self._ledger.close(r)) is not None
            ]  # fmt: skip
            for new in self._ledger.schedule(output):
                if (request := self._followers.open(new)) is not None:
                    self._gate.open(request, new.prompt)
                    self._lines.open(request)
            if not output.total_num_scheduled_tokens and self._ended:
                step = self._launch(None)
                if self._steps[0] is step:
                    self.complete(step)

    def before_forward(self, order: Sequence[str]) -> None:
        """Fill the per-token buffers of the coming step; ``order`` are the request ids in the runner's order."""
        with self._lock:
            rows = self._ledger.rows(order)
            self._current = self._launch(rows)
            self._taps.poison(rows.n_tokens)
            if self.received is not None:
                self._taps.scores[: rows.n_tokens].copy_(self.received[: rows.n_tokens])
            self._lines.fill(rows, self._followers.by_slot)

    def after_forward(self) -> Step | None:
        """Begin to copy the step's scores to the host; None if no step is on its way."""
        step, self._current = self._current, None
        if step is None or step.rows is None:
            return None
        scores = self._taps.scores[: step.rows.n_tokens]
        if scores.device.type == "cpu":
            step.scores = scores
        else:
            step.scores = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
            step.scores.copy_(scores, non_blocking=True)
            step.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own lack of a type
            step.ready.record()
        return step

    def hand_on(self) -> Tensor | None:
        """End the step on an earlier pipeline stage: the scores so far, ``(n_tokens, n_columns)``, to be sent on."""
        step, self._current = self._current, None
        if step is None or step.rows is None:
            return None
        self.complete(step)
        return self._taps.scores[: step.rows.n_tokens].clone()

    def complete(self, step: Step) -> dict[str, Stop]:
        """Fold the scores of all steps up to this one, publish frames, and return what to stop now, by vLLM's id."""
        stops: dict[str, Stop] = {}
        with self._lock:
            while self._steps:
                oldest = self._steps.popleft()
                stops |= self._complete(oldest)
                if oldest is step:
                    break
        return stops

    def _launch(self, rows: StepRows | None) -> Step:
        step = Step(rows, self._ended)
        self._ended = []
        self._steps.append(step)
        return step

    def _complete(self, step: Step) -> dict[str, Stop]:
        """An exception leaves the step's tokens unscored, is counted in the heartbeat, and never reaches vLLM."""
        reports: list[RequestScores] = []
        try:
            self._close(step.ended, reports)
            if step.rows is None or step.scores is None:
                return {}
            if step.ready is not None:
                step.ready.synchronize()
            return self._take(step.rows, step.scores.numpy(), reports)
        except Exception:  # whatever it is: the engine goes on, the tokens are unscored, and everybody sees it
            if self._publisher is not None:
                self._publisher.errors += 1
            log.exception("the tokens of this step are unscored")
            if step.rows is not None and self._cache is not None:
                self._cache.forget(step.rows.kv_slots)
            return {}
        finally:
            if reports and self._publisher is not None:
                self._publisher.publish(tuple(reports))

    def _close(self, slots: list[int], reports: list[RequestScores]) -> None:
        """Say that these requests ended, and free what they held."""
        for slot in slots:
            if (request := self._followers.close(slot)) is not None:
                self._lines.close(slot)
                seen = int(self._gate.position[slot])
                folded, scored = self._gate.folded[slot].tolist(), int(self._gate.scored[slot])
                reports.append(report(request, folded, seen, scored, seen, b"", ended=True))
            self._ledger.release(slot)

    def _take(self, rows: StepRows, scores: Scores, reports: list[RequestScores]) -> dict[str, Stop]:
        self._blank(rows, scores)
        if self._cache is not None:
            if rows.copies:
                self._cache.copy_blocks(rows.copies)
            tokens = UNKNOWN if rows.tokens is None else rows.tokens
            self._cache.scatter(rows.kv_slots, scores, rows.row_positions, tokens)
        followed = self._followers.followed[rows.slots]
        if not followed.any():
            return {}
        starts = rows.starts[:-1]
        single = followed & (rows.starts[1:] - starts == 1) & (rows.positions == self._gate.position[rows.slots])
        stops: dict[str, Stop] = {}
        if (at := np.flatnonzero(single)).size:
            slots, positions = rows.slots[at], rows.positions[at]
            requests = [self._followers.by_slot[slot] for slot in slots.tolist()]
            stops |= {r.engine_id: Stop(None, r.failed) for r in requests if r.failed is not None}
            own = scores[starts[at]]
            tripped = self._gate.fold_decode(requests, slots, positions, own, self._ledger.scheduled[slots])
            self._after(tripped, stops)
            seen, scored = self._gate.position[slots].tolist(), self._gate.scored[slots].tolist()
            for i, folded in enumerate(self._gate.folded[slots].tolist()):
                reports.append(report(requests[i], folded, seen[i], scored[i], seen[i] - 1, own[i].tobytes()))
        for i in np.flatnonzero(followed & ~single).tolist():
            request = self._followers.by_slot[int(rows.slots[i])]
            own = scores[rows.starts[i] : rows.starts[i + 1]]
            self._take_chunk(request, int(rows.positions[i]), own, reports, stops)
        return stops

    def _take_chunk(
        self, request: FollowedRequest, position: int, own: Scores, reports: list[RequestScores], stops: dict[str, Stop]
    ) -> None:
        """A request's rows from ``position`` on, before them the kept scores of a prefix hit, without what it had."""
        slot, first = request.slot, int(self._gate.position[request.slot])
        n_kept = max(0, position - first)
        fresh = own[max(0, first - position) :]
        if not len(fresh):
            return
        scores = np.concatenate([self._kept(slot, first, position), fresh]) if n_kept else fresh
        tripped = self._gate.fold_chunk(request, scores, n_kept, int(self._ledger.scheduled[slot]))
        self._after([request] if tripped else [], stops)
        if request.failed is not None:
            stops[request.engine_id] = Stop(None, request.failed)
        seen, scored = int(self._gate.position[slot]), int(self._gate.scored[slot])
        reports.append(report(request, self._gate.folded[slot].tolist(), seen, scored, first, scores.tobytes()))

    def _kept(self, slot: int, first: int, stop: int) -> Scores:
        """Scores of positions that the prefix cache provided; NaN where none were kept."""
        if self._cache is None:
            return np.full((stop - first, self._taps.scores.shape[1]), np.nan, dtype=np.float32)
        positions = np.arange(first, stop)
        return self._cache.gather(
            self._ledger.kv_slots(slot, positions), positions, self._ledger.prompt(slot, first, stop)
        )

    def _after(self, tripped: Sequence[FollowedRequest], stops: dict[str, Stop]) -> None:
        for request in tripped:
            self._lines.changed(request)
            if request.stopped is not None:
                stops[request.engine_id] = Stop(request.stopped)

    def _blank(self, rows: StepRows, scores: Scores) -> None:
        """Make NaN what is no score: infinities, rows of an adapter, everything once the weights changed."""
        if not np.isfinite(scores).all():
            scores[~np.isfinite(scores)] = np.nan
        if self._followers.unscored:
            adapted = np.isin(rows.row_slots, list(self._followers.unscored))
            if self._followers.spreads and adapted.any():
                self._followers.unscored.update(rows.slots.tolist())
                adapted[:] = True
            scores[adapted] = np.nan
        if self.stale is not None:
            scores[:] = np.nan
