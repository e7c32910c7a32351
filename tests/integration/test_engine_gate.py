"""The gate decides in the step: nothing after a trip is released, and observing changes nothing."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch

from monitor.policy.plan import XARGS_KEY, DetectorPlan, sign_plan
from monitor.types import Action, Operator, Steering, SteeringScope
from probes.fold import fold_sequence
from probes.scope import scope_interval
from tests.support.engine import KEY
from tests.support.parity import ABLATE, ADD, logit_share, random_prompts, score_share

pytestmark = pytest.mark.vllm

NEVER = 1e9


def watch_all(bundle, threshold: float = NEVER, action: Action = Action.FLAG) -> list[DetectorPlan]:
    return [DetectorPlan(rule=p.name, probe=p.name, threshold=threshold, action=action) for p in bundle.manifest.probes]


def offline_folds(bundle, scores: np.ndarray, prompt: list[int], probe) -> np.ndarray:
    """The folded score after every position, computed on the whole sequence at once."""
    start, stop = scope_interval(probe.scope, prompt, bundle.manifest.model.markers)
    column = scores[:, [p.name for p in bundle.manifest.probes].index(probe.name)].astype(np.float64).copy()
    positions = np.arange(len(column))
    column[(positions < start) | (positions >= stop)] = math.nan
    return fold_sequence(probe.fold, torch.from_numpy(column)).numpy()


def test_streamed_folds_equal_the_folds_of_the_whole_sequence(eager):
    prompts = random_prompts(12, seed=11)
    plans = [eager.plan(detectors=watch_all(eager.bundle)) for _ in prompts]
    _, frames = eager.generate(prompts, plans, max_tokens=20)
    names = [p.name for p in eager.bundle.manifest.probes]
    for prompt, plan in zip(prompts, plans, strict=True):
        collected = frames[plan.request_id, 0]
        scores = collected.matrix(names)
        for probe, state in zip(eager.bundle.manifest.probes, collected.last.detectors, strict=True):
            wanted = offline_folds(eager.bundle, scores, prompt, probe)[-1]
            assert state.score == pytest.approx(wanted, rel=1e-6), probe.name


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("params", [{}, {"min_tokens": 25}, {"logprobs": 2}, {"stop_token_ids": [299]}])
def test_a_response_that_trips_releases_nothing_after_the_trip(mode, params, request):
    engine = request.getfixturevalue(mode)
    prompts = random_prompts(8, seed=12)
    plain, _ = engine.generate(prompts, [None] * 8, max_tokens=30, **params)
    probe = engine.bundle.manifest.probe("invention")
    watched = [engine.plan(detectors=[DetectorPlan("r", probe.name, NEVER, Action.FLAG)]) for _ in prompts]
    _, frames = engine.generate(prompts, watched, max_tokens=30, **params)
    names = [p.name for p in engine.bundle.manifest.probes]
    thresholds, positions = [], []
    for index, (prompt, plan) in enumerate(zip(prompts, watched, strict=True)):
        folds = offline_folds(engine.bundle, frames[plan.request_id, 0].matrix(names), prompt, probe)
        target = min(len(prompt) + 3 * index, len(folds) - 1)  # trips spread over the response
        thresholds.append(float(np.nanmax(folds[len(prompt) : target + 1])) - 1e-4)  # above rounding
        positions.append(int(np.flatnonzero(folds >= thresholds[-1])[0]))
    plans = [engine.plan(detectors=[DetectorPlan("r", probe.name, t, Action.STOP)]) for t in thresholds]
    outputs, frames = engine.generate(prompts, plans, max_tokens=30, **params)
    for prompt, plan, position, output, free in zip(prompts, plans, positions, outputs, plain, strict=True):
        choice, state = output.outputs[0], frames[plan.request_id, 0].last
        assert state.detectors[0].trip_position == position
        assert choice.finish_reason == "stop"
        assert choice.stop_reason == "plumbline:r"
        # The token at the trip was sampled one step earlier; nothing that was sampled after it came out.
        released = position - len(prompt) + 1
        assert list(choice.token_ids) == list(free.outputs[0].token_ids[:released])
        if "logprobs" in params:
            assert len(choice.logprobs) == released


def test_a_prompt_that_trips_produces_no_token(eager):
    prompts = random_prompts(6, seed=13)
    stop = [DetectorPlan("r", "intent", -NEVER, Action.STOP)]
    plans = [eager.plan(detectors=stop) for _ in prompts]
    outputs, frames = eager.generate(prompts, plans)
    for prompt, plan, output in zip(prompts, plans, outputs, strict=True):
        assert list(output.outputs[0].token_ids) == []
        assert output.outputs[0].stop_reason == "plumbline:r"
        assert frames[plan.request_id, 0].last.stopped == "r"
        assert frames[plan.request_id, 0].last.detectors[0].trip_position == len(prompt) - 1


def test_observing_records_the_same_trips_and_changes_nothing(eager):
    prompts = random_prompts(6, seed=14)
    plain, _ = eager.generate(prompts, [None] * 6)
    rules = watch_all(eager.bundle, threshold=-NEVER, action=Action.STOP)
    plans = [eager.plan(detectors=rules, enforce=False) for _ in prompts]
    outputs, frames = eager.generate(prompts, plans)
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in plain]
    for plan in plans:
        last = frames[plan.request_id, 0].last
        assert last.stopped is None
        assert all(d.trip_position is not None for d in last.detectors)


def test_holding_scores_the_last_token_of_a_length_capped_response_and_changes_nothing_else(eager):
    prompts = random_prompts(6, seed=15)
    outputs, _ = eager.generate(prompts, [eager.plan() for _ in prompts], max_tokens=5)
    plans = [eager.plan(hold=True) for _ in prompts]
    held, frames = eager.generate(prompts, plans, max_tokens=5)
    for prompt, plan, output, other in zip(prompts, plans, held, outputs, strict=True):
        assert output.outputs[0].token_ids == other.outputs[0].token_ids
        assert output.outputs[0].finish_reason == "length"
        last = frames[plan.request_id, 0].last
        assert last.seen == last.scored == len(prompt) + 5


def test_a_rule_that_steers_acts_from_the_next_forward_pass(eager, reference):
    """Steered from the first generated position on, with the prompt's keys and values left unsteered."""
    prompt = random_prompts(1, seed=16)[0]
    rule = DetectorPlan("r", "intent", -NEVER, Action.STEER, steering=ADD)
    plan = eager.plan(detectors=[rule])
    outputs, _ = eager.generate([prompt], [plan], max_tokens=6, logprobs=-1)
    ids = list(outputs[0].outputs[0].token_ids)
    with torch.no_grad():
        cache = reference.model(torch.tensor([prompt]), use_cache=True).past_key_values
        with reference._steered(ADD):
            logits = reference.model(torch.tensor([ids[:-1]]), past_key_values=cache).logits[0]
    assert logit_share(outputs[0].outputs[0].logprobs[1:], logits) <= 1


def test_a_steering_of_the_prompt_leaves_the_response_alone(eager, reference):
    prompt = random_prompts(1, seed=18)[0]
    steering = (msgspec.structs.replace(ADD[0], scope=SteeringScope.PROMPT),)
    outputs, _ = eager.generate([prompt], [eager.plan(steering=steering)], max_tokens=6, logprobs=-1)
    ids = list(outputs[0].outputs[0].token_ids)
    with torch.no_grad():
        with reference._steered(ADD):
            first = reference.model(torch.tensor([prompt]), use_cache=True)
        rest = reference.model(torch.tensor([ids[:-1]]), past_key_values=first.past_key_values).logits[0]
    assert logit_share(outputs[0].outputs[0].logprobs, [first.logits[0, -1], *rest]) <= 1


def test_a_steering_of_the_response_leaves_the_prompt_alone(eager, reference):
    prompt = random_prompts(1, seed=19)[0]
    steering = (msgspec.structs.replace(ABLATE[0], scope=SteeringScope.RESPONSE),)
    outputs, _ = eager.generate([prompt], [eager.plan(steering=steering)], max_tokens=6, logprobs=-1)
    ids = list(outputs[0].outputs[0].token_ids)
    with torch.no_grad():
        cache = reference.model(torch.tensor([prompt]), use_cache=True).past_key_values
        with reference._steered(ABLATE):
            logits = reference.model(torch.tensor([ids[:-1]]), past_key_values=cache).logits[0]
    assert logit_share(outputs[0].outputs[0].logprobs[1:], logits) <= 1


def test_a_plan_with_an_altered_signature_or_for_another_bundle_never_runs(eager):
    from vllm import SamplingParams

    good = eager.plan()
    signed = sign_plan(good, KEY)
    other = sign_plan(msgspec.structs.replace(good, bundle="0" * 64), KEY)
    unknown = sign_plan(eager.plan(steering=[Steering("nowhere", Operator.ADD)]), KEY)
    for text in (signed[:-1] + ("0" if signed[-1] != "0" else "1"), other, unknown, "nonsense"):
        params = SamplingParams(max_tokens=3, extra_args={XARGS_KEY: text})
        output = eager.llm.generate([{"prompt_token_ids": [9, 10, 11]}], params, use_tqdm=False)
        assert output[0].outputs[0].finish_reason == "error"
        assert list(output[0].outputs[0].token_ids) == []


def test_a_subscriber_that_never_reads_does_not_stop_the_engine_nor_others(eager):
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as asleep:
        asleep.setsockopt(zmq.RCVHWM, 1)
        asleep.setsockopt(zmq.SUBSCRIBE, b"")
        asleep.connect(eager.endpoint)
        prompts = random_prompts(16, seed=17)
        for _ in range(3):
            plans = [eager.plan() for _ in prompts]
            _, frames = eager.generate(prompts, plans, max_tokens=40)
            assert all(frames[p.request_id, 0].last.ended for p in plans)
        asleep.close(linger=0)


def test_a_rule_that_steers_leaves_what_came_before_its_trip_alone_when_it_is_computed_again(eager, reference):
    """Requests that trip on the prompt are preempted and resumed; the prompt's scores stay unsteered."""
    prompts = random_prompts(12, seed=20, longest=80)
    rule = DetectorPlan("r", "intent", -NEVER, Action.STEER, steering=ADD)
    plans = [eager.plan(detectors=[rule]) for _ in prompts]
    eager.generate(prompts, plans, max_tokens=60)
    names = [p.name for p in eager.bundle.manifest.probes]
    again = [eager.plan(detectors=[rule]) for _ in prompts]
    _, frames = eager.generate(prompts, again, max_tokens=2)
    for prompt, plan in zip(prompts, again, strict=True):
        wanted, _ = reference.run(prompt)
        assert score_share(frames[plan.request_id, 0].matrix(names)[: len(prompt)], wanted.numpy()) <= 1


def test_the_next_turn_does_not_find_the_steered_response_in_the_cache(eager, reference):
    prompt = random_prompts(1, seed=21)[0] + list(range(40, 90))
    steering = (msgspec.structs.replace(ABLATE[0], scope=SteeringScope.RESPONSE),)
    outputs, _ = eager.generate([prompt], [eager.plan(steering=steering)], max_tokens=70)
    second = prompt + list(outputs[0].outputs[0].token_ids) + list(range(90, 120))
    plan = eager.plan(steering=steering)
    _, frames = eager.generate([second], [plan], max_tokens=1)
    names = [p.name for p in eager.bundle.manifest.probes]
    wanted, _ = reference.run(second)
    assert score_share(frames[plan.request_id, 0].matrix(names)[: len(second)], wanted.numpy()) <= 1


def test_nobody_can_write_blocks_under_the_salt_of_a_steered_request(eager, reference):
    from vllm import SamplingParams

    prompt = random_prompts(1, seed=22)[0] + list(range(60, 130))
    plan = eager.plan(steering=ABLATE)
    forged = {"prompt_token_ids": prompt, "cache_salt": plan.cache_salt()}
    eager.llm.generate([forged], SamplingParams(max_tokens=2), use_tqdm=False)
    _, frames = eager.generate([prompt], [plan])
    names = [p.name for p in eager.bundle.manifest.probes]
    wanted, _ = reference.run(prompt, ABLATE)
    assert score_share(frames[plan.request_id, 0].matrix(names)[: len(prompt)], wanted.numpy()) <= 1
