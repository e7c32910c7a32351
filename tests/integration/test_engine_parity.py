"""The engine's scores and steered logits are transformers' scores and steered logits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.parity import ABLATE, ADD, measure, random_prompts, score_share

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_every_token_of_fifty_prompts_has_transformers_score_whatever_else_runs_in_the_batch(mode, request, reference):
    engine = request.getfixturevalue(mode)
    shares = measure(engine, reference, random_prompts(50, seed=1))
    assert max(score for score, _ in shares) <= 1
    assert max(logit for _, logit in shares) <= 1


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_requests_without_steering_equal_requests_without_a_plan_token_for_token(mode, request):
    engine = request.getfixturevalue(mode)
    prompts = random_prompts(16, seed=2)
    plain, _ = engine.generate(prompts, [None] * 16)
    planned, _ = engine.generate(prompts, [engine.plan() for _ in prompts])
    assert [o.outputs[0].token_ids for o in plain] == [o.outputs[0].token_ids for o in planned]


def test_steering_changes_what_is_generated(eager):
    prompts = random_prompts(4, seed=3)
    plain, _ = eager.generate(prompts, [None] * 4)
    steered, _ = eager.generate(prompts, [eager.plan(steering=ADD) for _ in prompts])
    assert [o.outputs[0].token_ids for o in plain] != [o.outputs[0].token_ids for o in steered]


def test_a_prefix_cache_hit_gives_the_cold_scores(eager, reference):
    prompt = random_prompts(1, seed=4)[0] + list(range(20, 70))
    names = [p.name for p in eager.bundle.manifest.probes]
    plans = [eager.plan() for _ in range(2)]
    results = [eager.generate([prompt], [plan]) for plan in plans]
    assert [outputs[0].num_cached_tokens > 0 for outputs, _ in results] == [False, True]
    cold, warm = (frames[plan.request_id, 0].matrix(names) for plan, (_, frames) in zip(plans, results, strict=True))
    assert np.array_equal(cold[: len(prompt)], warm[: len(prompt)])


def test_two_identical_prompts_in_one_step_both_have_every_score(eager, reference):
    prompt = list(range(30, 62))
    names = [p.name for p in eager.bundle.manifest.probes]
    plans = [eager.plan() for _ in range(3)]
    _, frames = eager.generate([prompt] * 3, plans)
    wanted, _ = reference.run(prompt)
    for plan in plans:
        assert score_share(frames[plan.request_id, 0].matrix(names)[: len(prompt)], wanted.numpy()) <= 1


def test_steered_and_unsteered_requests_never_share_cache_blocks(eager, reference):
    prompt = random_prompts(1, seed=5, longest=60)[0] + list(range(100, 150))
    names = [p.name for p in eager.bundle.manifest.probes]
    for steering in (ABLATE, (), ABLATE, ADD, ()):
        plan = eager.plan(steering=steering)
        _, frames = eager.generate([prompt], [plan])
        wanted, _ = reference.run(prompt, steering)
        assert score_share(frames[plan.request_id, 0].matrix(names)[: len(prompt)], wanted.numpy()) <= 1


def test_every_choice_of_n_has_its_own_scores(eager, reference):
    prompt = random_prompts(1, seed=6)[0]
    plan = eager.plan(n=3)
    outputs, frames = eager.generate([prompt], [plan], n=3, temperature=1.0, seed=7)
    names = [p.name for p in eager.bundle.manifest.probes]
    assert len({tuple(o.token_ids) for o in outputs[0].outputs}) > 1
    for choice in outputs[0].outputs:
        wanted, _ = reference.run((prompt + list(choice.token_ids))[:-1])
        assert score_share(frames[plan.request_id, choice.index].matrix(names), wanted.numpy()) <= 1


def test_preempted_and_resumed_requests_lose_no_token_and_report_none_twice(eager, reference):
    before = preemptions(eager)
    shares = measure(eager, reference, random_prompts(12, seed=8, longest=80), max_tokens=60)
    assert preemptions(eager) > before, "the KV cache of this engine is meant to be too small for the batch"
    assert max(score for score, _ in shares) <= 1


def preemptions(engine) -> float:
    return sum(m.value for m in engine.llm.get_metrics() if m.name == "vllm:num_preemptions")
