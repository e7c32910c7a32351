"""The policy file that a person writes: its schema, and nothing that depends on a bundle.

version: 1
default: standard
policies:
  - name: standard
    mode: enforce            # or observe: records what it would have done
    release: hold            # or live: no delay, at most one token late
    on_unscored: block       # or allow
    rules:
      - name: harm
        probe: harmful_intent
        fpr: 0.01            # a threshold of the bundle; or threshold: 3.2 (logit)
        action: stop         # flag, steer, replace or stop
      - name: lying
        probe: deception
        action: replace
        text: I would rather not say.
    steering:                # always applied
      - direction: honesty
        operator: add        # clamp (with low, high), ablate or ablate_output
        strength: 0.5
        start: 0
        half_life: 200
        when: {probe: deception, threshold: 1.5}
    callers:
      may_steer:
        - {direction: refusal, operators: [add], max_strength: 2.0}

A direction ``folder:name`` is one of those that are loaded (``--directions``).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitor.types import Condition, FailMode, Mode, Operator, Release, Steering, SteeringScope

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
RuleAction = Literal["flag", "steer", "replace", "stop"]
Text = Annotated[str, Field(min_length=1, max_length=4096)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ConditionModel(_Strict):
    """When a steering acts; see :class:`monitor.types.Condition`."""

    probe: str
    threshold: Finite
    sharpness: Finite = 10.0

    def condition(self) -> Condition:
        """The plain noun."""
        return Condition(self.probe, self.threshold, self.sharpness)


class SteeringModel(_Strict):
    """One steering; see :class:`monitor.types.Steering`. What its values must be is checked with the bundle at hand."""

    direction: str
    operator: Operator
    strength: Finite = 1.0
    scope: SteeringScope = SteeringScope.ALL
    start: int = 0
    half_life: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    when: ConditionModel | None = None

    def steering(self) -> Steering:
        """The plain noun."""
        when = None if self.when is None else self.when.condition()
        return Steering(**{**dict(self), "when": when})


class RuleModel(_Strict):
    """From one probe to one action.

    Attributes:
        threshold: logit on the folded score; or
        fpr: one of the bundle's false-positive rates; with neither, the bundle's first threshold.
        steering: for ``action: steer``: applied once the rule tripped, to the response only; ``start`` and
            ``half_life`` count from where it begins.
        text: for ``action: replace``: what the caller gets in place of the rest of the response. The monitor writes it:
            an engine that is called without the gateway only ends the response.
    """

    name: Name
    probe: str
    action: RuleAction
    threshold: Finite | None = None
    fpr: Annotated[float, Field(gt=0, lt=1)] | None = None
    steering: tuple[SteeringModel, ...] = ()
    text: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threshold is not None and self.fpr is not None:
            raise ValueError("give threshold or fpr, not both")
        if self.action == "steer" and not self.steering:
            raise ValueError("action steer needs steering: a list of {direction, operator, strength}")
        if self.action != "steer" and self.steering:
            raise ValueError(f"steering belongs to action steer, this rule's action is {self.action}")
        if self.action == "replace" and self.text is None:
            raise ValueError("action replace needs text: what the caller gets in place of the response")
        if self.action != "replace" and self.text is not None:
            raise ValueError(f"text belongs to action replace, this rule's action is {self.action}")
        if any(steering.scope is SteeringScope.PROMPT for steering in self.steering):
            raise ValueError("a rule that steers reaches the response only; its scope cannot be prompt")
        return self


class MaySteerModel(_Strict):
    """One direction that callers may steer with.

    A caller sets ``scope``, ``start``, ``half_life`` and ``when`` freely: they only weaken what is allowed without.

    Attributes:
        direction: of the bundle, or ``folder:name`` of one that is loaded.
        operators: those that callers may use with it.
        max_strength: largest absolute ``strength`` and, for ``clamp``, largest absolute ``low`` and ``high``: all count
            in the direction's magnitude, and a clamp moves the projection no further than its bounds.
    """

    direction: str
    operators: Annotated[tuple[Operator, ...], Field(min_length=1)]
    max_strength: Annotated[float, Field(gt=0)]


class CallersModel(_Strict):
    """What callers may ask for beyond the policy.

    Attributes:
        may_select: requests may name this policy (the default policy always applies to those that name none).
        may_steer: with what, and how far; see :class:`MaySteerModel`.
        may_add_probes: callers may have further probes scored and flagged.
        may_send_raw_prompts: text completions are allowed although a rule acts on the last user turn; whoever
            writes the prompt as text writes its turns too, and chooses the token at which it is judged.
    """

    may_select: bool = False
    may_steer: tuple[MaySteerModel, ...] = ()
    may_add_probes: bool = True
    may_send_raw_prompts: bool = False


class PolicyModel(_Strict):
    """One policy."""

    name: Name
    mode: Mode = Mode.ENFORCE
    release: Release = Release.HOLD
    on_unscored: FailMode = FailMode.BLOCK
    rules: tuple[RuleModel, ...] = ()
    steering: tuple[SteeringModel, ...] = ()
    callers: CallersModel = CallersModel()

    @model_validator(mode="after")
    def _unique_rules(self) -> Self:
        _refuse_repeats("rules", [rule.name for rule in self.rules])
        return self


class PolicyFile(_Strict):
    """The whole file."""

    version: Literal[1]
    default: Name
    policies: Annotated[tuple[PolicyModel, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [policy.name for policy in self.policies]
        _refuse_repeats("policies", names)
        if self.default not in names:
            raise ValueError(f"default names {self.default!r}; the policies are {', '.join(names)}")
        return self


def _refuse_repeats(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} must have different names; repeated: {', '.join(repeated)}")
