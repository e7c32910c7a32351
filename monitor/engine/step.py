"""What happens around one forward pass: rows and entries before, scores, folds and verdicts after.

Runs in: vLLM worker, on the host.
"""

from __future__ import annotations

import logging
import re

import numpy as np
import torch
from torch import Tensor

from monitor.engine.gate import Chunk, Gate, GateState
from monitor.engine.instrument import Instrumentation
from monitor.engine.publish import FramePublisher
from monitor.engine.rows import RequestRows, StepRows, V1Rows
from monitor.engine.score_cache import ScoreCache
from monitor.engine.settings import EngineSettings
from monitor.policy.plan import XARGS_KEY, GatePlan, verify_plan
from probes.bundle import Bundle

log = logging.getLogger(__name__)

_CHOICE = re.compile(r"(\d+)_")


class StepHooks:
    """Follows every request of one worker from its first row to its end."""

    def __init__(
        self,
        bundle: Bundle,
        settings: EngineSettings,
        instrumentation: Instrumentation,
        rows: V1Rows,
        publisher: FramePublisher,
        max_requests: int,
    ) -> None:
        self._bundle = bundle
        self._settings = settings
        self._taps = instrumentation
        self._rows = rows
        self._publisher = publisher
        self._gate = Gate(bundle.manifest, instrumentation.probes, max_requests)
        self._open: dict[str, GateState] = {}
        self._default = self._read(settings.default_plan) if settings.default_plan is not None else None
        self._step: StepRows | None = None
        self._slots: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None = None
        self.cache: ScoreCache | None = None

    def finished(self, request_ids: set[str]) -> None:
        """These requests are done (finished or aborted): say so, and free what they held."""
        reports = []
        for request_id in request_ids:
            if (state := self._open.pop(request_id, None)) is not None:
                self._gate.close(state)
                reports.append(state.report(state.position, None, ended=True))
        if reports:
            self._publisher.publish(tuple(reports))

    def before_forward(self) -> None:
        """Fill the per-token buffers of the coming step."""
        step = self._step = self._rows.step()
        entries = np.zeros(step.n_tokens, dtype=np.int64)
        slots = np.empty(step.n_tokens, dtype=np.int64)
        for rows in step.requests:
            end = rows.position + rows.stop - rows.start
            slots[rows.start : rows.stop] = self._rows.kv_slots(rows.index, rows.position, end)
            if (state := self._follow(rows.request_id)) is not None and state.steers:
                for first, last in state.stretches(rows.position, end):
                    at = slice(rows.start + first - rows.position, rows.start + last - rows.position)
                    entries[at] = self._taps.steering.entry(state.steering_at(first))
        self._slots = slots
        self._taps.steering.set_rows(torch.from_numpy(entries))
        self._taps.poison(step.n_tokens)

    def after_forward(self) -> dict[str, str]:
        """Fold the step's scores, publish a frame, and return ``{vLLM request id: rule}`` to stop now.

        An exception leaves this step's tokens unscored, is counted in the heartbeat, and never reaches vLLM.
        """
        step, self._step = self._step, None
        if step is None:
            return {}
        try:
            return self._after_forward(step)
        except Exception:  # whatever it is: the engine goes on, the tokens are unscored, and everybody sees it
            self._publisher.errors += 1
            log.exception("the tokens of this step are unscored")
            if self.cache is not None and self._slots is not None:
                self.cache.forget(self._slots)
            return {}

    def _after_forward(self, step: StepRows) -> dict[str, str]:
        scores = self._taps.scores[: step.n_tokens].cpu()
        scores = scores.masked_fill(~torch.isfinite(scores), torch.nan)
        if self.cache is not None and self._slots is not None:
            self.cache.scatter(self._slots, scores)
        followed = [(rows, self._open[rows.request_id]) for rows in step.requests if rows.request_id in self._open]
        chunks = [c for rows, state in followed if len((c := self._chunk(rows, state, scores)).scores)]
        first = [c.state.position for c in chunks]
        self._gate.fold(chunks)
        if chunks:
            reports = (c.state.report(at, c.scores) for c, at in zip(chunks, first, strict=True))
            self._publisher.publish(tuple(reports))
        return {rows.request_id: state.stopped for rows, state in followed if state.stopped is not None}

    def _chunk(self, rows: RequestRows, state: GateState, scores: Tensor) -> Chunk:
        """A request's first unfolded position on: kept scores of a prefix hit, then this step's; perhaps nothing."""
        own = scores[rows.start : rows.stop]
        if rows.position <= state.position:
            return Chunk(state, own[state.position - rows.position :])
        n_kept = rows.position - state.position
        if self.cache is None:
            kept = torch.full((n_kept, scores.shape[1]), torch.nan)
        else:
            kept = self.cache.gather(self._rows.kv_slots(rows.index, state.position, rows.position))
        return Chunk(state, torch.cat([kept, own]), n_kept)

    def _follow(self, request_id: str) -> GateState | None:
        """The open request, opened on its first row; None if it has no plan and there is no default plan."""
        if (state := self._open.get(request_id)) is not None:
            return state
        if (plan := self._plan(request_id)) is None:
            return None
        choice = int(match[1]) if plan.n > 1 and (match := _CHOICE.match(request_id)) else 0
        prompt = self._rows.prompt(request_id)
        state = self._open[request_id] = self._gate.open(plan, choice, prompt, self._bundle.manifest.model.markers)
        return state

    def _plan(self, request_id: str) -> GatePlan | None:
        text = self._rows.extra_args(request_id).get(XARGS_KEY)
        if text is not None:
            return self._read(text)
        return None if self._default is None else self._default.for_request(request_id)

    def _read(self, text: object) -> GatePlan:
        """A plan whose expiry the engine core checked when it admitted the request; it may have waited since."""
        return verify_plan(text, self._settings.plan_key, self._bundle.digest, now=0.0)
