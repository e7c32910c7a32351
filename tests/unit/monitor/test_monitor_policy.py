# ruff: noqa: E501  # a table of cases, one a line
"""Policy files, their compilation, and the promise that callers can only tighten."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitor_samples import DIGEST, KEY, MANIFEST, NAMES, POLICY, probe

from monitor.errors import ConfigError, LoosensPolicyError, PlanError, RequestError
from monitor.policy.compile import check_raw_prompt, compile_plan
from monitor.policy.load import parse_policy
from monitor.policy.model import PolicyFile
from monitor.policy.options import GuardOptions
from monitor.policy.plan import sign_plan, verify_plan
from monitor.policy.steering import Names
from monitor.policy.store import PolicyStore, load_snapshot
from monitor.types import Action, Condition, Mode, Operator, Steering
from probes.types import Scope


@pytest.fixture
def snapshot(policy_file):
    return load_snapshot(policy_file, NAMES)


def compiled(policy, options=GuardOptions()):  # noqa: B008
    return compile_plan(policy, options, names=NAMES, digest=DIGEST, revision="r", request_id="id", n=1, expires=2e9)


def errors_of(text, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_snapshot(path, NAMES)
    message = str(caught.value)
    assert "p.yaml" in message
    return message


HEAD = "version: 1\ndefault: a\npolicies:\n  - name: a\n"
STEER = "{name: r, probe: deception, action: steer}"
TAKES = "{name: r, probe: deception, action: flag, steering: [{direction: refusal, operator: add}]}"
TWICE = "[{name: r, probe: deception, action: flag}, {name: r, probe: deception, action: stop}]"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ["wanted a mapping"]),
        ("[1, 2", ["not a YAML file"]),
        ("version: 2\ndefault: a\npolicies: [{name: a}]", ["version", "got 2"]),
        ("version: 1\ndefault: b\npolicies: [{name: a}]", ["'b'", "the policies are a"]),
        ("version: 1\ndefault: a\npolicies: [{name: a}, {name: a}]", ["repeated: a"]),
        (HEAD + "    rules: " + TWICE, ["repeated: r"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: block}]", ["policies[0].rules[0].action", "'block'", "'flag', 'steer', 'replace' or 'stop'"]),
        (HEAD + "    rules: [{name: r, probe: anger, action: flag}]", ["policies[0].rules[0].probe", "'anger'", "harmful_intent, deception"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: flag, fpr: 0.5}]", ["policies[0].rules[0].fpr", "0.5", "0.01, 0.05"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: flag, fpr: 0.05, threshold: 1}]", ["not both"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: flag, threshold: .nan}]", ["threshold", "finite"]),
        (HEAD + f"    rules: [{STEER}]", ["needs steering"]),
        (HEAD + f"    rules: [{TAKES}]", ["belongs to action steer"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: replace}]", ["rules[0]", "needs text"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: replace, text: ''}]", ["rules[0].text", "at least 1"]),
        (HEAD + "    rules: [{name: r, probe: deception, action: stop, text: sorry}]", ["text belongs to action replace"]),
        (HEAD + "    steering: [{direction: up, operator: add}]", ["policies[0].steering[0].direction", "'up'", "refusal, honesty"]),
        (HEAD + "    steering: [{direction: refusal, operator: ablate, strength: 2}]", ["strength", "at most 1"]),
        (HEAD + "    on_unscored: alow", ["policies[0].on_unscored", "'alow'", "'block' or 'allow'"]),
        (HEAD + "    on_unscored: block\n    on_unscored: allow", ["line 6", "repeated"]),
        (HEAD + "    realease: hold", ["policies[0].realease", "unknown field"]),
        (HEAD + "    callers: {may_steer: [{direction: up, operators: [add], max_strength: 1}]}", ["may_steer[0].direction"]),
        ("version: 1\ndefault: &x a\npolicies: [{name: *x}]", ["alias", "line 3"]),
        ("a: " + "[" * 50_000, ["nested deeper"]),
        ("version: 1\n# " + "x" * 2**20, ["at most"]),
    ],
)  # fmt: skip
def test_errors_say_where_what_came_and_what_is_wanted(text, wanted, tmp_path):
    message = errors_of(text, tmp_path)
    for words in wanted:
        assert words in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_snapshot(tmp_path / "nothing.yaml", NAMES)


def test_thresholds_come_from_value_fpr_or_the_bundles_first(snapshot):
    rules = {d.rule: d for d in compiled(snapshot.policies["standard"]).detectors}
    assert (rules["harm"].threshold, rules["lie"].threshold) == (2.0, 1.0)
    text = HEAD + "    rules: [{name: r, probe: deception, action: flag, threshold: -0.5}]"
    model = parse_policy(text.encode(), "x")
    assert model.policies[0].rules[0].threshold == -0.5


def test_plans_carry_release_and_mode(snapshot):
    assert compiled(snapshot.policies["standard"]).hold
    assert not compiled(snapshot.policies["live"]).hold
    assert not compiled(snapshot.policies["watching"]).enforce
    assert compiled(snapshot.policies["watching"], GuardOptions(mode=Mode.ENFORCE)).enforce
    assert compiled(snapshot.policies["steering"]).cache_salt() is not None


def test_a_failed_reload_keeps_the_last_good(policy_file):
    told = []
    store = PolicyStore(policy_file, NAMES, lambda result, loaded: told.append((result, loaded)))
    first = store.snapshot
    policy_file.write_text("version: 1")
    assert not store.reload()
    assert store.snapshot is first
    policy_file.write_text(POLICY + "\n# changed\n")
    assert store.reload()
    assert store.snapshot.revision != first.revision
    assert len(store.snapshot.revision) == 12
    assert [result for result, _ in told] == ["success", "failure", "success"]
    assert told[1][1] == first.loaded


# --- callers can only tighten

steerings = st.builds(
    Steering,
    direction=st.sampled_from(["refusal", "honesty", "up"]),
    operator=st.sampled_from(list(Operator)),
    strength=st.floats(-4, 4),
    start=st.sampled_from([0, 7]),
    half_life=st.sampled_from([None, 3.0]),
    low=st.none() | st.floats(-4, 4),
    high=st.none() | st.floats(-4, 4),
    when=st.sampled_from([None, Condition("deception", 1.0)]),
)
options = st.builds(
    GuardOptions,
    policy=st.none(),
    mode=st.sampled_from([None, *Mode]),
    probes=st.lists(st.sampled_from(["harmful_intent", "deception", "anger"]), max_size=3).map(tuple),
    steering=st.lists(steerings, max_size=2).map(tuple),
    token_scores=st.booleans(),
)


@pytest.mark.parametrize("name", ["standard", "live", "watching", "steering", "internal"])
@given(wishes=options)
@settings(max_examples=60, deadline=None)
def test_tightening_never_allows_more(name, wishes, tmp_path_factory):
    parsed = PolicyFile.model_validate(_yaml(POLICY))
    from monitor.policy.compile import resolve_policy

    policy = resolve_policy(next(p for p in parsed.policies if p.name == name), NAMES, "x")
    plain = compiled(policy)
    try:
        plan = compiled(policy, wishes)
    except RequestError as error:
        assert error.http_status in (400, 403)
        return
    assert plan.enforce >= plain.enforce
    assert plan.hold == plain.hold
    assert plan.detectors[: len(plain.detectors)] == plain.detectors
    assert all(d.action is Action.FLAG for d in plan.detectors[len(plain.detectors) :])
    assert plan.steering[: len(plain.steering)] == plain.steering
    for steering in plan.steering[len(plain.steering) :]:
        allowed = policy.model.callers.may_steer
        amounts = [abs(a) for a in (steering.strength, steering.low, steering.high) if a is not None]
        assert any(a.direction == steering.direction and max(amounts) <= a.max_strength for a in allowed)
        assert any(a.direction == steering.direction and steering.operator in a.operators for a in allowed)
    if plan.steering:
        assert plan.cache_salt()


@given(wishes=options, flip=st.integers(0, 10**6), xor=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_plans_survive_signing_and_no_altered_byte_is_accepted(wishes, flip, xor):
    policy = load_policy("standard")
    try:
        plan = compiled(policy, wishes)
    except RequestError:
        plan = compiled(policy)
    text = sign_plan(plan, KEY)
    assert verify_plan(text, KEY, DIGEST, now=0) == plan
    data = bytearray(text.encode())
    data[flip % len(data)] ^= xor
    with pytest.raises(PlanError):
        verify_plan(data.decode("latin-1"), KEY, DIGEST, now=0)
    with pytest.raises(PlanError):
        verify_plan(text, b"another key", DIGEST, now=0)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=8,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_guard_value_is_accepted_or_refused_in_words(value):
    try:
        parsed = GuardOptions.parse(value)
    except RequestError as error:
        assert error.http_status == 400
    else:
        assert msgspec.convert(msgspec.to_builtins(parsed), GuardOptions) == parsed


def _yaml(text):
    import yaml

    return yaml.safe_load(text)


def load_policy(name):
    from monitor.policy.compile import resolve_policy

    parsed = PolicyFile.model_validate(_yaml(POLICY))
    return resolve_policy(next(p for p in parsed.policies if p.name == name), NAMES, "x")


def test_a_raw_prompt_is_refused_where_a_rule_acts_on_the_last_user_turn(policy_file):
    probes = (probe("harmful_intent", Scope.LAST_USER), probe("deception", Scope.RESPONSE))
    manifest = MANIFEST.model_copy(update={"probes": probes})
    policies = load_snapshot(policy_file, Names.of(manifest)).policies
    with pytest.raises(LoosensPolicyError, match="may_send_raw_prompts"):
        check_raw_prompt(policies["standard"], manifest)
    for name in ("live", "watching", "steering"):  # no such rule; only observes; allows it
        check_raw_prompt(policies[name], manifest)
