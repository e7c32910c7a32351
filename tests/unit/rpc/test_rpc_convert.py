from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpc_fakes import make_update, make_verdict

from monitor import types
from monitor.errors import InvalidRequestError
from monitor.frames import DetectorState
from monitor.rpc import convert, enums
from monitor.rpc.requests import generate_body, messages_from_proto, options_from_proto
from monitor.v1 import guard_pb2, verdict_pb2

names = st.text(max_size=20)
counts = st.integers(0, 2**32 - 1)
logits = st.none() | st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
token_logits = st.none() | st.floats(allow_nan=False, width=32)

steerings = st.builds(
    types.Steering,
    direction=st.text(min_size=1, max_size=20),
    operator=st.sampled_from(types.Operator),
    strength=finite,
    scope=st.sampled_from(types.SteeringScope),
    start=counts,
    half_life=st.none() | finite,
    low=st.none() | finite,
    high=st.none() | finite,
    when=st.none() | st.builds(types.Condition, probe=names, threshold=finite, sharpness=finite),
)
detections = st.builds(
    types.Detection,
    rule=names,
    probe=names,
    concept=names,
    score=logits,
    probability=logits,
    threshold=st.floats(allow_nan=False),
    tripped=st.booleans(),
    position=st.none() | counts,
    action=st.sampled_from(types.Action),
)
verdicts = st.builds(
    types.Verdict,
    request_id=names,
    choice=counts,
    status=st.sampled_from(types.Status),
    action=st.sampled_from(types.Action),
    enforced=st.booleans(),
    mode=st.sampled_from(types.Mode),
    policy=names,
    revision=names,
    detections=st.lists(detections, max_size=3).map(tuple),
    steering=st.lists(steerings, max_size=3).map(tuple),
    n_prompt=counts,
    n_completion=counts,
    tokens_seen=counts,
    tokens_scored=counts,
    unscored=st.dictionaries(st.sampled_from(types.UnscoredReason), counts),
    created=st.floats(1e9, 4e9),
)
token_scores = st.builds(types.TokenScore, position=counts, scores=st.dictionaries(names, token_logits, max_size=4))


# a busy machine is no failure
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


@patient
@given(verdicts)
def test_a_verdict_survives_the_wire(verdict):
    assert convert.verdict_from_proto(over_the_wire(convert.verdict_to_proto(verdict))) == verdict


@patient
@given(token_scores)
def test_token_scores_survive_the_wire(token):
    assert convert.token_score_from_proto(over_the_wire(convert.token_score_to_proto(token))) == token


@patient
@given(steerings)
def test_a_steering_survives_the_wire(steering):
    assert convert.steering_from_proto(over_the_wire(convert.steering_to_proto(steering))) == steering


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_what_has_no_score_is_absent_on_the_wire_and_none_after_it(nothing):
    token = convert.token_score_to_proto(types.TokenScore(3, {"deception": nothing}))
    assert not token.scores[0].HasField("score")
    assert convert.token_score_from_proto(token).scores == {"deception": None}

    verdict = make_verdict()
    unscored = types.Detection("r", "p", "c", nothing, nothing, 1.0, False, None, types.Action.FLAG)
    message = convert.detection_to_proto(unscored)
    assert not (message.HasField("score") or message.HasField("probability") or message.HasField("position"))
    assert convert.detection_from_proto(message).score is None
    assert convert.verdict_to_proto(verdict).detections[0].HasField("score")

    assert not convert.rule_state_to_proto(DetectorState("r", nothing)).HasField("score")


def test_a_score_of_zero_is_a_score():
    token = over_the_wire(convert.token_score_to_proto(types.TokenScore(0, {"deception": 0.0})))
    assert token.scores[0].HasField("score")
    assert convert.token_score_from_proto(token).scores == {"deception": 0.0}


def test_only_the_probes_that_were_asked_for_are_sent():
    token = make_update().token_scores[0]
    sent = convert.token_score_to_proto(token, ["deception", "never_heard_of"])
    assert [entry.probe for entry in sent.scores] == ["deception"]


@pytest.mark.parametrize(
    ("nouns", "pairs", "wire"),
    [
        (types.Status, enums.STATUSES, verdict_pb2.Status),
        (types.Action, enums.ACTIONS, verdict_pb2.Action),
        (types.Mode, enums.MODES, verdict_pb2.Mode),
        (types.Operator, enums.OPERATORS, verdict_pb2.Operator),
        (types.UnscoredReason, enums.UNSCORED_REASONS, verdict_pb2.UnscoredReason),
    ],
)
def test_every_noun_has_the_wire_number_of_its_own_name(nouns, pairs, wire):
    numbers = {noun.value: pairs.to_proto(noun) for noun in nouns}
    prefix = wire.Name(0).removesuffix("UNSPECIFIED")
    named = {wire.Name(number).removeprefix(prefix).lower(): number for number in wire.values() if number}
    assert numbers == named
    assert all(pairs.from_proto(pairs.to_proto(noun)) is noun for noun in nouns)
    assert pairs.from_proto(0) is None
    with pytest.raises(ValueError, match="is unknown here"):
        pairs.known(99)


def test_empty_options_are_the_policys_own():
    options = options_from_proto(guard_pb2.GuardOptions(), token_scores=True)
    assert (options.policy, options.mode, options.probes, options.steering) == (None, None, (), ())
    assert options.token_scores


def test_options_reach_the_guard():
    message = guard_pb2.GuardOptions(
        policy="strict",
        mode=verdict_pb2.MODE_OBSERVE,
        probes=["deception"],
        steering=[verdict_pb2.Steering(direction="refusal", operator=verdict_pb2.OPERATOR_ADD)],
    )
    options = options_from_proto(message, token_scores=False)
    assert (options.policy, options.mode, options.probes) == ("strict", types.Mode.OBSERVE, ("deception",))
    assert options.steering == (types.Steering("refusal", types.Operator.ADD, 1.0),)


def test_what_a_steering_leaves_out_is_as_in_a_policy_file():
    when = verdict_pb2.Condition(probe="deception", threshold=0.0)
    message = verdict_pb2.Steering(direction="refusal", operator=verdict_pb2.OPERATOR_CLAMP, low=0.0, when=when)
    wanted = types.Steering("refusal", types.Operator.CLAMP, low=0.0, when=types.Condition("deception", 0.0))
    assert convert.steering_from_proto(over_the_wire(message)) == wanted


@pytest.mark.parametrize(
    ("steering", "hint"),
    [
        ({"direction": "refusal"}, "an operator"),
        ({"operator": verdict_pb2.OPERATOR_ADD}, "a direction"),
        ({"direction": "refusal", "operator": verdict_pb2.OPERATOR_ADD, "strength": math.nan}, "finite"),
    ],
)
def test_half_a_steering_is_refused(steering, hint):
    with pytest.raises(InvalidRequestError, match=hint):
        convert.steering_from_proto(verdict_pb2.Steering(**steering))


def test_an_explicit_strength_of_zero_stays_zero():
    message = verdict_pb2.Steering(direction="refusal", operator=verdict_pb2.OPERATOR_ADD, strength=0.0)
    assert convert.steering_from_proto(message).strength == 0.0


def test_a_mode_of_a_later_version_is_refused():
    with pytest.raises(InvalidRequestError, match="MODE_ENFORCE or MODE_OBSERVE"):
        options_from_proto(guard_pb2.GuardOptions(mode=17), token_scores=False)


def test_a_generation_becomes_an_openai_body():
    turns = [guard_pb2.Message(role="user", content="hello")]
    sampling = guard_pb2.SamplingOptions(max_tokens=5, temperature=0.0, seed=-3, stop=["\n"], n=2, top_p=0.5)
    path, body = generate_body(guard_pb2.GenerateRequest(messages=turns, sampling=sampling, model="m"))
    assert path == "/v1/chat/completions"
    assert body == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": -3,
        "stop": ["\n"],
        "n": 2,
    }
    path, body = generate_body(guard_pb2.GenerateRequest(prompt=""))
    assert (path, body["prompt"]) == ("/v1/completions", "")
    assert not {"temperature", "max_tokens", "model", "seed"} & set(body)


@pytest.mark.parametrize(
    ("request_", "hint"),
    [
        (guard_pb2.GenerateRequest(), "exactly one of"),
        (guard_pb2.GenerateRequest(prompt="x", messages=[guard_pb2.Message(role="user")]), "exactly one of"),
        (guard_pb2.GenerateRequest(messages=[guard_pb2.Message(content="x")]), "has no role"),
        (guard_pb2.GenerateRequest(prompt="x", sampling=guard_pb2.SamplingOptions(max_tokens=0)), "at least 1"),
        (guard_pb2.GenerateRequest(prompt="x", sampling=guard_pb2.SamplingOptions(temperature=math.inf)), "finite"),
    ],
)
def test_a_generation_that_makes_no_sense_is_refused(request_, hint):
    with pytest.raises(InvalidRequestError, match=hint):
        generate_body(request_)


def test_a_check_needs_messages():
    with pytest.raises(InvalidRequestError, match="no messages"):
        messages_from_proto([])
