"""Where the plugin enters vLLM's engine core: admission and the release of a sampled token.

    EngineCore.preprocess_add_request      verify the plan; salt the prefix cache; one step more for the last token
    Scheduler.update_from_output           take the worker's verdicts
    Scheduler._update_request_with_output  end a stopped request with nothing released

Runs in: vLLM engine core process.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from monitor.engine.request import all_steering
from monitor.engine.settings import EngineSettings
from monitor.engine.stops import Stop, attached_stops
from monitor.errors import PlanError
from monitor.policy.directions import is_loaded, read_loaded
from monitor.policy.plan import SALT_PREFIX, STOP_PREFIX, XARGS_KEY, GatePlan, verify_plan
from monitor.types import Action, Operator, Steering
from probes.bundle import Bundle, read_bundle, trusted_keys

_MAX_TOKENS = "plumbline_max_tokens"
_PATCHED = "_plumbline"
_STOPS = "plumbline_stops"


def patch_engine_core(settings: EngineSettings) -> None:
    """Install the three entry points; a second call does nothing."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    if getattr(EngineCore, _PATCHED, False):
        return
    setattr(EngineCore, _PATCHED, True)
    bundle = read_bundle(settings.bundle, trusted=trusted_keys(settings.trusted_keys))
    _patch_admission(EngineCore, Admission(settings, bundle))
    _patch_scheduler(Scheduler)


class Admission:
    """Decides whether a request may run, and under which cache salt."""

    def __init__(self, settings: EngineSettings, bundle: Bundle) -> None:
        self._settings = settings
        self._bundle = bundle
        self._trusted = trusted_keys(settings.trusted_keys)
        self._read: set[str] = set()
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
        steering = all_steering(plan)
        gates = [s.when.probe for s in steering if s.when is not None and manifest.probe(s.when.probe) is None]
        own = (s.direction for s in steering if not is_loaded(s.direction))
        directions = [name for name in own if manifest.direction(name) is None]
        if probes or gates or directions:
            raise PlanError(f"the bundle has no {', '.join(probes + gates + directions)}")
        check_conditions(steering)
        if missing := {s.operator for s in steering} - self._settings.operators:
            prepared = ", ".join(sorted(self._settings.operators)) or "none"
            raise PlanError(
                f"the engine is not prepared to {', '.join(sorted(missing))} (PLUMBLINE_OPERATORS: {prepared}); "
                "start it with all operators that policies and callers may use"
            )
        for s in steering:
            if is_loaded(s.direction) and s.direction not in self._read:
                read_loaded(
                    self._settings.directions, s.direction, self._trusted
                )  # what the workers will read, or a refusal
                self._read.add(s.direction)
        return plan


def check_conditions(steering: Sequence[Steering]) -> None:
    """A line of the steering table has one clamp and one condition for each direction and operator.

    Raises:
        PlanError: two clamps of one direction, or two ``add`` under different conditions.
    """
    seen: dict[tuple[str, Operator], Steering] = {}
    for s in steering:
        first = seen.setdefault((s.direction, s.operator), s)
        if first is not s and (s.operator is Operator.CLAMP or first.when != s.when):
            raise PlanError(
                f"{s.operator} {s.direction} is named twice, with different bounds or conditions; name it once"
            )


def refuse_late_steering(plan: GatePlan, config: Any) -> None:
    """Refuse rules that steer where the ranks of an engine would not begin together.

    With pipeline parallelism only the last stage learns that a rule tripped; with tensor parallelism and asynchronous
    scheduling each rank takes up a step's scores in its own time.

    Raises:
        PlanError: a rule of the plan steers, and this engine has such ranks.
    """
    rules = [d.rule for d in plan.detectors if d.action is Action.STEER]
    parallel = config.parallel_config
    apart = parallel.tensor_parallel_size > 1 and config.scheduler_config.async_scheduling
    if rules and (parallel.pipeline_parallel_size > 1 or apart):
        raise PlanError(
            f"rule {rules[0]} steers when it trips, and the ranks of this engine would not begin together; "
            "let it stop, steer from the start (with a condition), or serve without pipeline parallelism, and "
            "tensor parallelism with --no-async-scheduling"
        )


def _patch_admission(core_cls: Any, admission: Admission) -> None:
    original = core_cls.preprocess_add_request

    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        plan = admission.admit(request)
        if plan is not None:
            refuse_late_steering(plan, self.vllm_config)
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
        setattr(self, _STOPS, attached_stops(model_runner_output))
        return update(self, scheduler_output, model_runner_output)

    @functools.wraps(update_request)
    def _update_request_with_output(
        self: Any, request: Any, new_token_ids: list[int], *args: Any, **kwargs: Any
    ) -> Any:
        stop: Stop | None = getattr(self, _STOPS, {}).get(request.request_id)
        if stop is not None:
            request.status = RequestStatus.FINISHED_STOPPED if stop.rule is not None else RequestStatus.FINISHED_ERROR
            request.stop_reason = STOP_PREFIX + stop.rule if stop.rule is not None else stop.error
            return [], True
        wanted = getattr(request, _MAX_TOKENS, None)
        if wanted is not None and request.num_output_tokens >= wanted:
            request.status = RequestStatus.FINISHED_LENGTH_CAPPED
            return [], True
        return update_request(self, request, new_token_ids, *args, **kwargs)

    scheduler_cls.update_from_output = update_from_output
    scheduler_cls._update_request_with_output = _update_request_with_output
