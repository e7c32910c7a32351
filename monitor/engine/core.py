"""Where the plugin enters vLLM's engine core: admission and the release of a sampled token.

    EngineCore.preprocess_add_request      verify the plan; salt the prefix cache; one step more for hold
    Scheduler.update_from_output           take the worker's verdicts
    Scheduler._update_request_with_output  end a stopped request with nothing released

Runs in: vLLM engine core process.
"""

from __future__ import annotations

import functools
from typing import Any

from monitor.engine.settings import EngineSettings
from monitor.errors import PlanError
from monitor.policy.plan import SALT_PREFIX, STOP_PREFIX, XARGS_KEY, GatePlan, verify_plan
from probes.bundle import Bundle, read_bundle

STOPS_ATTRIBUTE = "plumbline_stops"
"""On ``ModelRunnerOutput``: ``{vLLM request id: rule}``; it survives the worker's IPC."""

_MAX_TOKENS = "plumbline_max_tokens"
_PATCHED = "_plumbline"


def patch_engine_core(settings: EngineSettings) -> None:
    """Install the three entry points; a second call does nothing."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    if getattr(EngineCore, _PATCHED, False):
        return
    setattr(EngineCore, _PATCHED, True)
    _patch_admission(EngineCore, Admission(settings, read_bundle(settings.bundle)))
    _patch_scheduler(Scheduler)


class Admission:
    """Decides whether a request may run, and under which cache salt."""

    def __init__(self, settings: EngineSettings, bundle: Bundle) -> None:
        self._settings = settings
        self._bundle = bundle
        text = settings.default_plan
        self._default = self._verify(text, now=0.0) if text is not None else None

    def admit(self, request: Any) -> GatePlan | None:
        """Verify the plan that ``request`` (an ``EngineCoreRequest``) carries, and salt its cache blocks.

        Raises:
            PlanError: the request is then answered with an error and never runs.
        """
        given = request.cache_salt or ""
        plan = self._plan_of(request)
        salt = plan.cache_salt() if plan is not None else None
        if salt is not None and given != salt and not given.startswith(f"{salt}:"):
            request.cache_salt = f"{salt}:{given}"  # a caller who came without the gateway
        elif salt is None and given.startswith(SALT_PREFIX):
            request.cache_salt = f"caller:{given}"  # nobody may write blocks under the salt of a steered request
        if plan is not None and getattr(request, "resumable", False):
            raise PlanError("a streaming-input session changes its prompt while it runs; it cannot be guarded")
        return plan

    def _plan_of(self, request: Any) -> GatePlan | None:
        params = request.sampling_params
        text = (params.extra_args or {}).get(XARGS_KEY) if params is not None else None
        return self._verify(text) if text is not None else self._default

    def _verify(self, text: str, now: float | None = None) -> GatePlan:
        plan = verify_plan(text, self._settings.plan_key, self._bundle.digest, now)
        manifest = self._bundle.manifest
        probes = [d.probe for d in plan.detectors if manifest.probe(d.probe) is None]
        steerings = (*plan.steering, *(s for d in plan.detectors for s in d.steering))
        directions = [s.direction for s in steerings if manifest.direction(s.direction) is None]
        if probes or directions:
            raise PlanError(f"the bundle has no {', '.join(probes + directions)}")
        return plan


def _patch_admission(core_cls: Any, admission: Admission) -> None:
    original = core_cls.preprocess_add_request

    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        plan = admission.admit(request)
        added, wave = original(self, request)
        if plan is not None and plan.score_last:
            # The last token of a length-capped response is sampled but never fed forward, so it would have
            # no score: run one step more and drop the extra token (see _update_request_with_output below).
            setattr(added, _MAX_TOKENS, added.max_tokens)
            added.max_tokens += 1
        return added, wave

    core_cls.preprocess_add_request = preprocess_add_request


def _patch_scheduler(scheduler_cls: Any) -> None:
    from vllm.v1.request import RequestStatus

    update, update_request = scheduler_cls.update_from_output, scheduler_cls._update_request_with_output

    @functools.wraps(update)
    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        setattr(self, STOPS_ATTRIBUTE, getattr(model_runner_output, STOPS_ATTRIBUTE, None) or {})
        return update(self, scheduler_output, model_runner_output)

    @functools.wraps(update_request)
    def _update_request_with_output(
        self: Any, request: Any, new_token_ids: list[int], *args: Any, **kwargs: Any
    ) -> Any:
        rule = getattr(self, STOPS_ATTRIBUTE, {}).get(request.request_id)
        if rule is not None:
            request.status = RequestStatus.FINISHED_STOPPED
            request.stop_reason = STOP_PREFIX + rule
            return [], True
        wanted = getattr(request, _MAX_TOKENS, None)
        if wanted is not None and request.num_output_tokens >= wanted:
            request.status = RequestStatus.FINISHED_LENGTH_CAPPED
            return [], True
        return update_request(self, request, new_token_ids, *args, **kwargs)

    scheduler_cls.update_from_output = update_from_output
    scheduler_cls._update_request_with_output = _update_request_with_output
