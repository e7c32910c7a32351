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
        action: stop         # flag, steer or stop
    steering: []             # always applied
    callers:
      may_steer:
        - {direction: refusal, operators: [add], max_strength: 2.0}
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitor.types import FailMode, Mode, Operator, Release, Steering, SteeringScope

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
RuleAction = Literal["flag", "steer", "stop"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SteeringModel(_Strict):
    """One steering; see :class:`monitor.types.Steering`."""

    direction: str
    operator: Operator
    strength: Finite = 1.0
    scope: SteeringScope = SteeringScope.ALL

    def steering(self) -> Steering:
        """The plain noun."""
        return Steering(self.direction, self.operator, self.strength, self.scope)


class RuleModel(_Strict):
    """From one probe to one action.

    Attributes:
        threshold: logit on the folded score; or
        fpr: one of the bundle's false-positive rates; with neither, the bundle's first threshold.
        steering: for ``action: steer``: applied once the rule tripped.
    """

    name: Name
    probe: str
    action: RuleAction
    threshold: Finite | None = None
    fpr: Annotated[float, Field(gt=0, lt=1)] | None = None
    steering: tuple[SteeringModel, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threshold is not None and self.fpr is not None:
            raise ValueError("give threshold or fpr, not both")
        if self.action == "steer" and not self.steering:
            raise ValueError("action steer needs steering: a list of {direction, operator, strength}")
        if self.action != "steer" and self.steering:
            raise ValueError(f"steering belongs to action steer, this rule's action is {self.action}")
        if any(steering.scope is SteeringScope.PROMPT for steering in self.steering):
            raise ValueError("a rule that steers reaches the response only; its scope cannot be prompt")
        return self


class MaySteerModel(_Strict):
    """One direction that callers may steer with."""

    direction: str
    operators: Annotated[tuple[Operator, ...], Field(min_length=1)]
    max_strength: Annotated[float, Field(gt=0)]


class CallersModel(_Strict):
    """What callers may ask for beyond the policy.

    Attributes:
        may_select: requests may name this policy (the default policy always applies to those that name none).
        may_steer: directions, operators and the largest absolute strength.
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
