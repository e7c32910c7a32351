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
from monitor.engine.intake import Intake
from monitor.engine.ledger import Ledger, NewRequest, StepRows
from monitor.engine.lines import Lines
from monitor.engine.publish import FramePublisher
from monitor.engine.report import step_columns
from monitor.engine.request import FollowedRequest
from monitor.engine.score_cache import ScoreCache
from monitor.engine.stops import Stop

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass
class Step:
    """One step on its way.

    Attributes:
        rows: whose rows; None if no forward pass ran.
        ended: slots of requests that ended before it.
        scores: ``(n_tokens, n_columns)`` fp32, on the host once ``ready``. ready: the copy's event; None on the CPU.
        failed: its tokens are unscored, but what must end is told all the same.
    """

    rows: StepRows | None
    ended: list[int]
    scores: Scores | None = None
    failed: bool = False
    ready: torch.cuda.Event | None = None


class StepHooks:
    """Follows every request of one worker from its first row to its end.

    Attributes:
        received: ``(n, n_columns)``, what the taps of earlier pipeline stages wrote in the coming step, or None.
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
        self._intake = Intake(followers, gate, ledger, lines, cache, publisher, taps.scores.shape[1])

    def distrust(self, why: str) -> None:
        """From now on nothing is scored."""
        self._intake.stale = why

    def schedule(self, output: Any) -> None:
        """Take in a ``SchedulerOutput``, before the runner does."""
        with self._lock:
            self._catch_up()
            try:
                for request_id in output.finished_req_ids:
                    if (slot := self._ledger.close(request_id)) is not None:
                        self._ended.append(slot)
                opened = self._ledger.schedule(output)
                self._gate.reserve(self._ledger.capacity)
                self._lines.reserve(self._ledger.capacity)
            except Exception:  # noqa: BLE001  # whatever it is, vLLM goes on; nothing that follows could be trusted
                self.distrust("the bookkeeping failed")
                self._failed("nothing is scored until a restart")
                return
            for new in opened:
                self._open(new)
            if not output.total_num_scheduled_tokens and self._ended:
                step = self._launch(None)
                if self._steps[0] is step:
                    self.complete(step)

    def _catch_up(self) -> None:
        """Where nobody asks for our output (the other ranks of a tensor-parallel engine), take what has arrived."""
        while self._publisher is None and self._steps and (step := self._steps[0]) is not self._current:
            if step.ready is not None and not step.ready.query():  # type: ignore[no-untyped-call]  # torch's own lack of a type
                return
            self.complete(step)  # a step without an event has failed: there is nothing to wait for

    def _open(self, new: NewRequest) -> None:
        """A request that cannot be followed as its plan says is ended, rather than left to run free."""
        try:
            if (request := self._followers.open(new)) is not None:
                self._gate.open(request, new.prompt)
                self._lines.open(request)
        except Exception:  # noqa: BLE001  # as above
            self._failed("this request is ended")
            self._followers.by_slot.pop(new.slot, None)
            self._followers.ending.discard(new.slot)
            self._gate.close(new.slot)
            self._lines.close(new.slot)
            self._intake.refused[new.slot] = new.request_id

    def before_forward(self, order: Sequence[str]) -> None:
        """Fill the per-token buffers of the coming step; ``order`` are the request ids in the runner's order.

        An exception leaves its tokens unscored and not steered; what must end is told all the same.
        """
        with self._lock:
            self._current, rows = None, None
            try:
                rows = self._ledger.rows(order)
                self._taps.poison(rows.n_tokens)
                if self.received is not None:
                    self._taps.scores[: rows.n_tokens].copy_(self.received[: rows.n_tokens])
                self._lines.fill(rows, self._followers.by_slot)
                self._current = self._launch(rows)
            except Exception:  # noqa: BLE001  # as above
                self._lines.clear()
                self._current = self._launch(rows)  # its KV slots are filled all the same
                self._current.failed = True
                if rows is None:
                    self.distrust("the bookkeeping failed")
                self._failed("the tokens of this step are unscored and not steered")

    def after_forward(self) -> Step | None:
        """Begin to copy the step's scores to the host; None if no step is on its way."""
        step, self._current = self._current, None
        if step is None or step.rows is None:
            return None
        if step.failed:
            return step
        n, on_host = step.rows.n_tokens, self._taps.on_host
        if on_host is not None:
            step.scores = on_host[:n]
        else:
            scores = self._taps.scores[:n]
            copy = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
            copy.copy_(scores, non_blocking=True)
            step.scores, step.ready = copy.numpy(), torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own lack of a type
            step.ready.record()
        return step

    def hand_on(self) -> Tensor | None:
        """End the step on an earlier pipeline stage: the scores so far, ``(n_tokens, n_columns)``, to be sent on."""
        step, self._current = self._current, None
        if step is None or step.rows is None:
            return None
        self.complete(step)
        return None if step.failed else self._taps.scores[: step.rows.n_tokens].clone()

    def complete(self, step: Step) -> dict[str, Stop]:
        """Fold the scores of all steps up to this one, publish frames, and return what to stop now, by vLLM's id."""
        stops: dict[str, Stop] = {}
        with self._lock:
            reached = False
            while self._steps and (not reached or self._steps[0].rows is None):  # and ends that waited for it
                oldest = self._steps.popleft()
                stops |= self._complete(oldest)
                reached |= oldest is step
        return stops

    def _launch(self, rows: StepRows | None) -> Step:
        step = Step(rows, self._ended)
        self._ended = []
        self._steps.append(step)
        return step

    def _complete(self, step: Step) -> dict[str, Stop]:
        """An exception leaves the step's tokens unscored, is counted in the heartbeat, and never reaches vLLM."""
        self._close(step.ended)
        if step.rows is None:
            return {}
        try:
            if step.scores is not None:
                if step.ready is not None:
                    step.ready.synchronize()
                return self._intake.take(step.rows, step.scores)
        except Exception:  # noqa: BLE001  # as above
            self._failed("the tokens of this step are unscored")
        if self._cache is not None:
            self._cache.forget(step.rows.kv_slots)
        return self._intake.stops(step.rows)

    def _failed(self, what: str) -> None:
        """Count and log the exception that is being handled."""
        if self._publisher is not None:
            self._publisher.errors += 1
        log.error(what, exc_info=True)  # noqa: LOG014  # called where the exception is handled

    def _close(self, slots: list[int]) -> None:
        """Say that these requests ended, and free what they held."""
        try:
            ended = [r for slot in slots if (r := self._forget(slot)) is not None]
            if ended and self._publisher is not None:
                at = np.array([r.slot for r in ended], dtype=np.int64)
                seen, scored = self._gate.position[at], self._gate.scored[at]
                numbers = np.stack([seen, np.zeros_like(seen), seen, scored], axis=1)
                self._publisher.publish(*step_columns(ended, numbers, self._gate.folded[at], b""))
        except Exception:  # noqa: BLE001  # as above
            self._failed("the end of a request was not told")
        finally:
            for slot in slots:
                self._ledger.release(slot)

    def _forget(self, slot: int) -> FollowedRequest | None:
        self._gate.close(slot)
        self._lines.close(slot)
        self._intake.refused.pop(slot, None)
        if (request := self._followers.close(slot)) is not None:
            request.changed(ended=True)
        return request
