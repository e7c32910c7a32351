# ruff: noqa: E501  # tables of cases, one a line
"""What a steering may say, wherever it is written, and when requests that steer share cache blocks."""

import math

import msgspec
import pytest
from monitor_samples import DIGEST, MANIFEST, NAMES, direction, probe

from monitor.errors import ConfigError, InvalidRequestError, LoosensPolicyError
from monitor.policy.compile import compile_plan, resolve_policy
from monitor.policy.model import PolicyModel, SteeringModel
from monitor.policy.options import GuardOptions
from monitor.policy.plan import GatePlan
from monitor.policy.steering import Names
from monitor.types import Condition, Operator, Steering, SteeringScope
from probes.types import FoldKind, FoldSpec, Scope

CLAMP = {"direction": "refusal", "operator": "clamp"}
ADD = {"direction": "refusal", "operator": "add"}
WHEN = {"probe": "deception", "threshold": 1.0}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (CLAMP, "low: clamp needs low, high or both"),
        ({**CLAMP, "low": 1.0, "high": 0.5}, "low: got 1, wanted at most high, which is 0.5"),
        ({**CLAMP, "high": 1.0, "strength": 1.5}, "strength: got 1.5, clamp wants more than 0, at most 1"),
        ({**ADD, "low": 0.0}, "low: belongs to clamp, the operator is add"),
        ({**ADD, "operator": "ablate", "strength": 0}, "strength: got 0, ablate wants more than 0"),
        ({**ADD, "operator": "ablate_output", "strength": -0.5}, "strength: got -0.5, ablate_output wants"),
        ({**ADD, "operator": "ablate", "when": WHEN}, "when: belongs to add and clamp, the operator is ablate"),
        ({**ADD, "operator": "ablate_output", "when": WHEN}, "when: belongs to add and clamp"),
        ({**ADD, "start": -1}, "start: got -1, wanted a position from 0"),
        ({**ADD, "start": 2**31}, "start: got 2147483648, wanted a position from 0 to 2147483647"),
        ({**ADD, "half_life": 0}, "half_life: got 0, wanted a number of tokens greater than 0"),
        ({**ADD, "when": {**WHEN, "sharpness": 0}}, "when.sharpness: got 0, wanted a number greater than 0"),
        ({**ADD, "when": {**WHEN, "probe": "anger"}}, "when.probe: got 'anger', the bundle's probes are harmful_intent, deception"),
    ],
)  # fmt: skip
def test_one_check_for_policies_and_for_callers(fields, says):
    policy = PolicyModel.model_validate({"name": "a", "steering": [fields]})
    with pytest.raises(ConfigError) as written:
        resolve_policy(policy, NAMES, "p.yaml")
    assert f"p.yaml.steering[0].{says}" in str(written.value)
    options = GuardOptions.parse({"steering": [fields]})
    with pytest.raises(InvalidRequestError) as asked:
        compiled(PolicyModel(name="a"), options)
    assert f"guard.steering[0].{says}" in str(asked.value)


@pytest.mark.parametrize("field", ["strength", "half_life", "low", "high"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused_whatever_they_came_through(field, value):
    steering = msgspec.structs.replace(Steering("refusal", Operator.CLAMP, low=0.0, high=1.0), **{field: value})
    with pytest.raises(InvalidRequestError, match=field):
        NAMES.check([steering], "guard.steering", InvalidRequestError)


def test_a_condition_needs_a_probe_that_is_read_no_later_than_the_direction_acts():
    manifest = MANIFEST.model_copy(
        update={"directions": (direction("refusal", layer=1), direction("honesty", layer=2))}
    )
    names = Names.of(manifest)
    when = Condition("deception", 1.0)  # read at layer 2
    names.check([Steering("honesty", Operator.ADD, when=when)], "x", ConfigError)
    with pytest.raises(ConfigError, match=r"x\[0\]\.when\.probe: deception reads layer 2, and refusal acts at layer 1"):
        names.check([Steering("refusal", Operator.ADD, when=when)], "x", ConfigError)


def test_a_condition_cannot_use_a_probe_that_folds_by_attention():
    attending = probe("deception", Scope.ALL).model_copy(update={"fold": FoldSpec(kind=FoldKind.ATTENTION)})
    names = Names.of(MANIFEST.model_copy(update={"probes": (attending,)}))
    with pytest.raises(ConfigError, match="folds by attention"):
        names.check([Steering("refusal", Operator.ADD, when=Condition("deception", 1.0))], "x", ConfigError)


def test_what_a_policy_file_leaves_out_is_as_in_a_request():
    for fields in (ADD, {**ADD, "when": WHEN}, {**CLAMP, "low": -1.0, "high": 2.0, "start": 3, "half_life": 8.0}):
        assert SteeringModel.model_validate(fields).steering() == msgspec.convert(fields, Steering)


# --- callers


def compiled(model, options):
    policy = resolve_policy(model, NAMES, "p.yaml")
    return compile_plan(policy, options, names=NAMES, digest=DIGEST, revision="r", request_id="id", n=1, expires=2e9)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({**ADD, "start": 5, "half_life": 2.5, "when": WHEN, "strength": -2.0}, True),
        ({**CLAMP, "low": -2.0, "high": 2.0}, True),
        ({**CLAMP, "high": 2.5}, False),
        ({**CLAMP, "low": 2.5}, False),
        ({**CLAMP, "high": -2.5}, False),
        ({**ADD, "operator": "ablate"}, False),
    ],
)
def test_callers_may_weaken_freely_and_reach_no_further_than_the_policy_says(fields, allowed):
    may = {"direction": "refusal", "operators": ["add", "clamp"], "max_strength": 2.0}
    model = PolicyModel.model_validate({"name": "a", "callers": {"may_steer": [may]}})
    options = GuardOptions.parse({"steering": [fields]})
    if allowed:
        assert compiled(model, options).steering == options.steering
        return
    with pytest.raises(LoosensPolicyError, match="lets callers use add/clamp refusal up to 2"):
        compiled(model, options)


# --- the prefix cache

BASE = Steering("refusal", Operator.CLAMP, low=0.0)
CHANGES = [
    {"start": 4}, {"half_life": 9.0}, {"low": 0.5}, {"high": 1.0}, {"operator": Operator.ADD}, {"strength": 0.5},
    {"when": Condition("deception", 1.0)}, {"when": Condition("deception", 1.0, 5.0)}, {"direction": "extra:refusal@0123"},
]  # fmt: skip


def salt(request_id, *steering):
    plan = GatePlan(request_id, "p", "r", DIGEST, 1.0, enforce=True, hold=True, n=1, detectors=(), steering=steering)
    return plan.cache_salt()


def test_every_field_of_a_steering_has_a_salt_of_its_own():
    salts = [salt("a", BASE), *(salt("a", msgspec.structs.replace(BASE, **change)) for change in CHANGES)]
    assert len(set(salts)) == len(salts)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_a_function_of_the_prefix_alone_is_shared_and_nothing_else_is(change):
    steering = msgspec.structs.replace(BASE, **change)
    assert salt("a", steering) == salt("b", steering)
    for scope in (SteeringScope.PROMPT, SteeringScope.RESPONSE):
        part = msgspec.structs.replace(steering, scope=scope)
        assert salt("a", part) != salt("b", part)
