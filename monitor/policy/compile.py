"""From a policy and a caller's options to the gate plan of one request.

Two steps: :func:`resolve_policy` checks a policy against a bundle once, at load; :func:`compile_plan`
makes one request's plan from the result. Callers can only tighten: what their options add is at most a
flag, an enforcement, or a steering that the policy allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from monitor.errors import ConfigError, DirectionsError, InvalidRequestError, LoosensPolicyError
from monitor.policy.model import MaySteerModel, PolicyModel, RuleModel
from monitor.policy.options import GuardOptions
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.policy.steering import Names
from monitor.types import Action, FailMode, Mode, Release, Steering
from probes.types import Manifest, Probe, Scope

CALLER_RULE = "caller:"
_MAX_STEERINGS = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy checked against a bundle, with every threshold resolved.

    Attributes:
        model: as written.
        detectors, steering: as the engine wants them, except that loaded directions have no digest yet.
        replacements: by rule with ``action: replace``: the text that takes the response's place.
    """

    model: PolicyModel
    detectors: tuple[DetectorPlan, ...]
    steering: tuple[Steering, ...]
    replacements: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name."""
        return self.model.name

    @property
    def blocks_unscored(self) -> bool:
        """Whether a request that cannot be scored is refused."""
        return self.model.on_unscored is FailMode.BLOCK


def resolve_policy(model: PolicyModel, names: Names, where: str) -> Policy:
    """Check a policy against a bundle and the directions that are loaded.

    Raises:
        ConfigError: naming file, path, what came and what the bundle has.
    """
    detectors = []
    for index, rule in enumerate(model.rules):
        at = f"{where}.rules[{index}]"
        probe = names.probe(rule.probe, f"{at}.probe", ConfigError)
        steering = tuple(steer.steering() for steer in rule.steering)
        names.check(steering, f"{at}.steering", ConfigError)
        threshold = _threshold(rule, probe, at)
        detectors.append(DetectorPlan(rule.name, probe.name, threshold, Action(rule.action), steering))
    always = tuple(steer.steering() for steer in model.steering)
    names.check(always, f"{where}.steering", ConfigError)
    for index, allowed in enumerate(model.callers.may_steer):
        names.direction(allowed.direction, f"{where}.callers.may_steer[{index}].direction", ConfigError)
    replacements = {rule.name: rule.text for rule in model.rules if rule.text is not None}
    return Policy(model, tuple(detectors), always, replacements)


def compile_plan(
    policy: Policy,
    options: GuardOptions,
    *,
    names: Names,
    digest: str,
    revision: str,
    request_id: str,
    n: int,
    expires: float,
    hold: bool | None = None,
) -> GatePlan:
    """The gate plan of one request.

    Args:
        policy: resolved against ``names``.
        options: of the caller.
        names: that may be used.
        digest: the bundle's identity.
        revision: of the policy file.
        request_id: ours.
        n: choices asked for.
        expires: Unix time after which the engine refuses to start it.
        hold: release only what is scored; None: as the policy says, and score the last token too.

    Raises:
        InvalidRequestError: an unknown probe or direction, or a strength that makes no sense.
        LoosensPolicyError: options that the policy does not allow.
        DirectionsError: a loaded direction with which the policy itself steers cannot be used any more.
    """
    if options.mode is Mode.OBSERVE and policy.model.mode is Mode.ENFORCE:
        raise LoosensPolicyError(f"guard.mode: policy {policy.name} enforces; callers cannot set it to observe")
    return GatePlan(
        request_id=request_id,
        policy=policy.name,
        revision=revision,
        bundle=digest,
        expires=expires,
        enforce=Mode.ENFORCE in (options.mode, policy.model.mode),
        hold=policy.model.release is Release.HOLD if hold is None else hold,
        score_last=hold is None,
        n=n,
        detectors=_own_detectors(policy, names) + _added_probes(policy, options.probes, names),
        steering=(
            *names.check(policy.steering, f"policy {policy.name}: steering", DirectionsError),
            *_added_steering(policy, options.steering, names),
        ),
    )


def check_raw_prompt(policy: Policy, manifest: Manifest) -> None:
    """Whether a prompt that is not made by the chat template can be judged under this policy.

    Raises:
        LoosensPolicyError: a rule that acts reads the last user turn, and the policy does not say that raw prompts
            are fine all the same.
    """
    if policy.model.callers.may_send_raw_prompts or policy.model.mode is Mode.OBSERVE:
        return
    for detector in policy.detectors:
        probe = manifest.probe(detector.probe)
        if detector.action is not Action.FLAG and probe is not None and probe.scope is Scope.LAST_USER:
            raise LoosensPolicyError(
                f"prompt: rule {detector.rule} of policy {policy.name} acts on the last user turn, and a raw prompt "
                "chooses its own turns; send chat messages, or let the policy allow callers.may_send_raw_prompts"
            )


def _own_detectors(policy: Policy, names: Names) -> tuple[DetectorPlan, ...]:
    """The policy's detectors, their loaded directions as they are now."""
    return tuple(
        msgspec.structs.replace(
            detector,
            steering=names.check(
                detector.steering, f"policy {policy.name}: rule {detector.rule}: steering", DirectionsError
            ),
        )
        if detector.steering
        else detector
        for detector in policy.detectors
    )


def _added_probes(policy: Policy, wanted: Iterable[str], names: Names) -> tuple[DetectorPlan, ...]:
    """Flags for the probes that a caller adds; those that the policy already reads are left as they are."""
    probes = [names.probe(name, "guard.probes", InvalidRequestError) for name in dict.fromkeys(wanted)]
    if probes and not policy.model.callers.may_add_probes:
        raise LoosensPolicyError(f"guard.probes: policy {policy.name} does not let callers add probes")
    present = {detector.probe for detector in policy.detectors}
    return tuple(
        DetectorPlan(f"{CALLER_RULE}{probe.name}", probe.name, probe.thresholds[0].value, Action.FLAG)
        for probe in probes
        if probe.name not in present
    )


def _added_steering(policy: Policy, wanted: tuple[Steering, ...], names: Names) -> tuple[Steering, ...]:
    if len(wanted) > _MAX_STEERINGS:
        raise InvalidRequestError(f"guard.steering: got {len(wanted)}, wanted at most {_MAX_STEERINGS}")
    checked = names.check(wanted, "guard.steering", InvalidRequestError)
    for direction, operator in {(steering.direction, steering.operator) for steering in wanted}:
        if sum(s.direction == direction and s.operator is operator for s in wanted) > 1:
            raise InvalidRequestError(f"guard.steering: {operator} {direction} is named more than once")
        own = [s for s in policy.steering if s.direction == direction]
        if own:
            raise LoosensPolicyError(f"guard.steering: policy {policy.name} steers {direction} itself")
    for index, steering in enumerate(wanted):
        if not any(_allows(allowed, steering) for allowed in policy.model.callers.may_steer):
            raise LoosensPolicyError(
                f"guard.steering[{index}]: {steering.operator} {steering.direction} with {_reach(steering)} is not "
                f"allowed; policy {policy.name} lets callers use {_listed(policy.model.callers.may_steer)}"
            )
    return checked


def _allows(allowed: MaySteerModel, wanted: Steering) -> bool:
    """Whether a caller may steer so: ``start``, ``half_life`` and ``when`` only weaken what is allowed without them."""
    return (
        wanted.direction == allowed.direction
        and wanted.operator in allowed.operators
        and max(map(abs, _amounts(wanted))) <= allowed.max_strength
    )


def _amounts(steering: Steering) -> tuple[float, ...]:
    """What ``max_strength`` limits: the strength and, for clamp, how far its bounds reach."""
    bounds = (bound for bound in (steering.low, steering.high) if bound is not None)
    return (steering.strength, *bounds)


def _reach(steering: Steering) -> str:
    named = {"strength": steering.strength, "low": steering.low, "high": steering.high}
    return ", ".join(f"{name} {value:g}" for name, value in named.items() if value is not None)


def _listed(allowed: tuple[MaySteerModel, ...]) -> str:
    if not allowed:
        return "no steering"
    return "; ".join(f"{'/'.join(entry.operators)} {entry.direction} up to {entry.max_strength:g}" for entry in allowed)


def _threshold(rule: RuleModel, probe: Probe, at: str) -> float:
    if rule.threshold is not None:
        return rule.threshold
    if rule.fpr is None:
        return probe.thresholds[0].value
    found = probe.threshold_at(rule.fpr)
    if found is None:
        rates = ", ".join(dict.fromkeys(f"{threshold.fpr:g}" for threshold in probe.thresholds))
        raise ConfigError(f"{at}.fpr: got {rule.fpr:g}, probe {probe.name} has thresholds at {rates}")
    return found.value
