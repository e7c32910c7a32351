"""What the requests of a measurement ask for."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action, Condition, Operator, Steering
from probes.bundle import Bundle

NEVER = 1e9
"""A threshold that no score reaches: rules are evaluated, and nothing is cut short."""

_steered_as = itertools.count()
_plan_ids = itertools.count()
SteeringOf = Callable[[Bundle], tuple[Steering, ...]]


@dataclass(frozen=True)
class Mode:
    """One column of the comparison.

    Attributes:
        name: of the mode, the beginning of its rows' names. about: for ``--help``.
        engine: which engine serves it: ``plain``, ``three`` (8 probes on 3 layers, prepared for no operator),
            ``steered`` (the same, prepared for ``add`` and ``ablate``), ``all`` (a probe on every layer) or ``hooks``
            (eager mode, forward hooks).
        goal: for throughput and median inter-token latency, or empty.
        planned: whether requests carry a plan with a rule for each probe.
        steering: of one more request, or None.
    """

    name: str
    about: str
    engine: str
    goal: str = ""
    planned: bool = True
    steering: SteeringOf | None = None


def _one(bundle: Bundle) -> tuple[Steering, ...]:
    return (Steering(bundle.manifest.directions[0].name, Operator.ADD, 0.01),)


def _sixteen(bundle: Bundle) -> tuple[Steering, ...]:
    i = next(_steered_as) % 16
    operator = (Operator.ADD, Operator.ABLATE)[i % 2]
    return (Steering(bundle.manifest.directions[i // 2 % 2].name, operator, 0.01 * (i + 1)),)


def _conditional(bundle: Bundle) -> tuple[Steering, ...]:
    direction = bundle.manifest.directions[0]
    probe = next(p for p in bundle.manifest.probes if p.layer <= direction.layer)
    return (Steering(direction.name, Operator.ADD, 0.01, when=Condition(probe=probe.name, threshold=0.0)),)


MODES = {
    mode.name: mode
    for mode in (
        Mode("null", "a second plain engine against the first: what the method itself shows", "plain", planned=False),
        Mode("off", "the plugin is on, requests carry no plan", "three", planned=False),
        Mode("reading", "8 probes on 3 layers, each with a rule", "three", "<= 0.02"),
        Mode("reading_prepared", "the same, by an engine that is prepared to add and ablate", "steered"),
        Mode("steering_1", "the same, and one steering for all requests", "steered", "<= 0.03", steering=_one),
        Mode("steering_16", "the same, and 16 different steerings in turn", "steered", "<= 0.03", steering=_sixteen),
        Mode(
            "conditional",
            "the same, and a steering on the condition of a probe",
            "steered",
            "<= 0.03",
            steering=_conditional,
        ),
        Mode("reading_all", "a probe on every layer, each with a rule", "all"),
        Mode("eager_hooks", "hooks in eager mode, as other plugins do: 3 layers, 8 probes", "hooks", planned=False),
    )
}


def make_plan(mode: Mode, bundle: Bundle) -> GatePlan | None:
    """The plan of one more request of this mode."""
    if not mode.planned:
        return None
    rules = tuple(DetectorPlan(p.name, p.name, NEVER, Action.FLAG) for p in bundle.manifest.probes)
    return GatePlan(
        request_id=f"r{next(_plan_ids)}", policy="benchmark", revision="1", bundle=bundle.digest,
        expires=time.time() + 600, enforce=True, hold=False, n=1, detectors=rules,
        steering=mode.steering(bundle) if mode.steering is not None else (),
    )  # fmt: skip
