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
from monitor.engine.ledger import Ledger, NewRequest, StepRows
from monitor.engine.lines import Lines
from monitor.engine.publish import FramePublisher
from monitor.engine.report import step_columns
from monitor.engine.request import FollowedRequest
from monitor.engine.score_cache import FOREIGN, ScoreCache
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
            try:
                slots = [slot for r in output.finished_req_ids if (slot := self._ledger.close(r)) is not None]
                self._ended += slots
                opened = self._ledger.schedule(output)
            except Exception:  # noqa: BLE001  # whatever it is, vLLM goes on; nothing that follows could be trusted
                self.stale = "the bookkeeping failed"
                self._failed("nothing is scored until a restart")
                return
            for new in opened:
                self._open(new)
            if not output.total_num_scheduled_tokens and self._ended:
                step = self._launch(None)
                if self._steps[0] is step:
                    self.complete(step)

    def _open(self, new: NewRequest) -> None:
        try:
            if (request := self._followers.open(new)) is not None:
                self._gate.open(request, new.prompt)
                self._lines.open(request)
        except Exception:  # noqa: BLE001  # as above
            self._failed("this request is unscored")

    def before_forward(self, order: Sequence[str]) -> None:
        """Fill the per-token buffers of the coming step; ``order`` are the request ids in the runner's order.

        An exception leaves the step without rows: its tokens are unscored, and nothing is steered.
        """
        with self._lock:
            self._current = None
            try:
                rows = self._ledger.rows(order)
                self._taps.poison(rows.n_tokens)
                if self.received is not None:
                    self._taps.scores[: rows.n_tokens].copy_(self.received[: rows.n_tokens])
                self._lines.fill(rows, self._followers.by_slot)
                self._current = self._launch(rows)
            except Exception:  # noqa: BLE001  # as above
                self._lines.clear()
                self._failed("the tokens of this step are unscored and not steered")

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
        try:
            self._close(step.ended)
            if step.rows is None or step.scores is None:
                return {}
            if step.ready is not None:
                step.ready.synchronize()
            return self._take(step.rows, step.scores.numpy())
        except Exception:  # noqa: BLE001  # as above
            self._failed("the tokens of this step are unscored")
            if step.rows is not None and self._cache is not None:
                self._cache.forget(step.rows.kv_slots)
            return {}

    def _failed(self, what: str) -> None:
        """Count and log the exception that is being handled."""
        if self._publisher is not None:
            self._publisher.errors += 1
        log.error(what, exc_info=True)  # noqa: LOG014  # called where the exception is handled

    def _close(self, slots: list[int]) -> None:
        """Say that these requests ended, and free what they held."""
        ended = []
        for slot in slots:
            self._gate.close(slot)
            self._lines.close(slot)
            if (request := self._followers.close(slot)) is not None:
                request.changed(ended=True)
                ended.append(request)
        if ended and self._publisher is not None:
            at = np.array([r.slot for r in ended], dtype=np.int64)
            seen = self._gate.position[at]
            self._publisher.publish(*step_columns(ended, self._gate, at, seen, np.zeros_like(seen), b""))
        for slot in slots:
            self._ledger.release(slot)

    def _take(self, rows: StepRows, scores: Scores) -> dict[str, Stop]:
        if self._cache is not None and rows.copies:
            self._cache.copy_blocks(rows.copies)
        tokens = rows.tokens
        if (foreign := self._foreign(rows)) is not None:
            scores[foreign], tokens = np.nan, np.where(foreign, FOREIGN, tokens)
        if self.stale is not None:
            scores[:] = np.nan
        if self._cache is not None:
            self._cache.scatter(rows.kv_slots, scores, rows.row_positions, tokens)
        else:
            np.copyto(scores, np.nan, where=~np.isfinite(scores))
        followed = self._gate.followed[rows.slots]
        if not followed.any():
            return {}
        before = self._gate.position[rows.slots]
        late = np.flatnonzero(followed & (rows.positions > before))
        kept = {i: self._fold_kept(int(rows.slots[i]), int(before[i]), int(rows.positions[i])) for i in late.tolist()}
        tripped = self._fold(rows.row_slots, rows.row_positions, scores)
        after = self._gate.position[rows.slots]
        at = np.flatnonzero(followed & (after > before))
        requests = [self._followers.by_slot[slot] for slot in rows.slots[at].tolist()]
        for request in tripped:
            request.changed()
            self._lines.changed(request)
        if self._publisher is not None and requests:
            if not kept and len(at) == rows.n_tokens:  # one new row for each request: the matrix is the frame
                data = scores.tobytes()
            else:
                data = b"".join([self._fresh(rows, scores, i, int(after[i] - before[i]), kept) for i in at.tolist()])
            sizes = (after[at] - before[at]) * scores.itemsize * scores.shape[1]
            self._publisher.publish(*step_columns(requests, self._gate, rows.slots[at], before[at], sizes, data))
        return {
            r.engine_id: Stop(r.stopped, r.failed) for r in requests if r.stopped is not None or r.failed is not None
        }

    def _fold(self, slots: Ints, positions: Ints, scores: Scores) -> list[FollowedRequest]:
        return self._gate.fold(slots, positions, scores, self._followers.by_slot, self._ledger.scheduled)

    def _fold_kept(self, slot: int, first: int, stop: int) -> Scores:
        """Fold the positions ``[first, stop)`` that the prefix cache provided; returns their scores, NaN if missing."""
        positions = np.arange(first, stop)
        if self._cache is None or self.stale is not None:
            kept = np.full((stop - first, self._taps.scores.shape[1]), np.nan, dtype=np.float32)
        else:
            tokens = self._ledger.prompt(slot, first, stop)
            kept = self._cache.gather(self._ledger.kv_slots(slot, positions), positions, tokens)
        request = self._followers.by_slot[slot]
        request.cache_misses += int(np.isnan(kept).any(1).sum())
        request.changed()
        for tripped in self._fold(np.full(stop - first, slot), positions, kept):
            tripped.changed()
            self._lines.changed(tripped)
        return kept

    @staticmethod
    def _fresh(rows: StepRows, scores: Scores, i: int, n_new: int, kept: dict[int, Scores]) -> bytes:
        """The new scores of the i-th request: those from the cache, then its last rows."""
        before = kept.get(i)
        n_own = n_new - (0 if before is None else len(before))
        own = scores[rows.starts[i + 1] - n_own : rows.starts[i + 1]]
        return (own if before is None else np.concatenate([before, own])).tobytes()

    def _foreign(self, rows: StepRows) -> NDArray[np.bool_] | None:
        """``(n_tokens,)``, the rows that an adapter may have changed; None if it is none.

        Its own; and, where it spreads, those of a step that it shared, and those that read keys and values of either.
        """
        followers, slots = self._followers, rows.slots.tolist()
        if followers.spreads and not followers.adapted.isdisjoint(slots):
            followers.unscored.update(slots)
        elif followers.spreads and self._cache is not None:
            for slot, position in zip(slots, rows.positions.tolist(), strict=True):
                if self._cache.foreign(self._ledger.kv_slots(slot, np.arange(position))):
                    followers.unscored.add(slot)
        return np.isin(rows.row_slots, list(followers.unscored)) if followers.unscored else None
