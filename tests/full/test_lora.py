"""Adapters: a request with one is wholly unscored, and no request without one has a wrong score.

A bundle was made for the base model; what its probes read under an adapter means nothing that was ever measured. vLLM's
CPU kernels index the adapters with -1 for "none", which is the last slot: in a mixed batch a request without an adapter
may run with that one. Such requests are unscored from that step on, and so is who later reads the keys and values that
it left in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.policy.plan import XARGS_KEY, DetectorPlan, sign_plan
from monitor.types import Action
from tests.support.adapter import RANK, make_adapter
from tests.support.engine import KEY, Collected
from tests.support.parity import random_prompts, score_share
from tests.support.reference import Reference
from tests.support.start import start
from tests.support.tiny import make_bundle, make_model

pytestmark = [pytest.mark.vllm, pytest.mark.full]

NEVER = 1e9
BUDGET = 64
"""Tokens of a step."""


@dataclass(frozen=True)
class Lab:
    engine: Any
    adapter: Any
    reference: Reference

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.engine.bundle.manifest.probes]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("lora")
    model = make_model(folder / "model")
    bundle = make_bundle(folder / "bundle", model)
    # One slot only, so that the adapter really is applied to those without one.
    engine = start(
        model, bundle, folder, enable_lora=True, max_loras=1, max_lora_rank=RANK, block_size=32,
        max_num_batched_tokens=BUDGET,
    )  # fmt: skip
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("random", 1, str(make_adapter(folder / "adapter", model)))
    yield Lab(engine, adapter, Reference(model, bundle))
    engine.close()


def wrong_by(lab: Lab, ids: Sequence[int], scores: np.ndarray) -> np.ndarray:
    """Every token's worst score ``(n_tokens,)``, as a share of what counts as equal; NaN where it is unscored."""
    wanted = lab.reference.run(ids)[0].numpy()
    assert scores.shape == wanted.shape
    return (np.abs(scores - wanted) / (1e-3 * np.maximum(np.abs(wanted), wanted.std(0)))).max(1)


def sampling(plan: Any, n: int) -> Any:
    from vllm import SamplingParams

    extra = {XARGS_KEY: sign_plan(plan, KEY)}
    return SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True, extra_args=extra)


def run(
    engine: Any, prompts: Sequence[Sequence[int]], adapters: Sequence[Any], n: int = 8, **plan: Any
) -> list[tuple[list[int], Any, Collected]]:
    """Generate greedily in one batch, each prompt with its adapter (or none): ids, vLLM's choice, frames."""
    plans = [engine.plan(**plan) for _ in prompts]
    tokens = [{"prompt_token_ids": list(p)} for p in prompts]
    params = [sampling(p, n) for p in plans]
    outputs = engine.llm.generate(tokens, params, use_tqdm=False, lora_request=list(adapters))
    frames = engine.collect({(p.request_id, 0) for p in plans})
    return [
        ((list(prompt) + list(output.outputs[0].token_ids))[:-1], output.outputs[0], frames[plan.request_id, 0])
        for prompt, output, plan in zip(prompts, outputs, plans, strict=True)
    ]


def test_in_a_mixed_batch_no_score_is_wrong(lab):
    prompts = random_prompts(12, seed=31)
    adapters = [lab.adapter if i % 3 == 0 else None for i in range(12)]
    for used, (ids, _, frames) in zip(adapters, run(lab.engine, prompts, adapters), strict=True):
        wrong = wrong_by(lab, ids, frames.matrix(lab.names))
        scored = ~np.isnan(wrong)
        assert used is None or not scored.any()
        assert scored[: int(scored.sum())].all(), "once unscored, a request stays it"
        assert wrong[scored].max(initial=0.0) <= 1


def test_what_a_request_was_scored_for_before_an_adapter_came_stays(lab):
    first = list(range(20, 92))  # more than a step holds, so that its first one is its own
    (ids, _, frames), _ = run(lab.engine, [first, [7, 8, 9]], [None, lab.adapter], n=40)
    wrong = wrong_by(lab, ids, frames.matrix(lab.names))
    assert wrong[:BUDGET].max() <= 1
    assert np.isnan(wrong[-1])


def test_who_reads_keys_and_values_that_an_adapter_changed_is_unscored(lab):
    prompt = list(range(120, 220))
    run(lab.engine, [[7, 8, 9], prompt], [lab.adapter, None])
    ((ids, output, frames),) = run(lab.engine, [prompt], [None])
    untouched = lab.reference.run(ids)[1].argmax(1)[len(prompt) - 1 :].tolist()
    assert list(output.token_ids) != untouched, "vLLM reused what the adapter changed"
    assert np.isnan(wrong_by(lab, ids, frames.matrix(lab.names))).all()
    for ids, _, frames in run(lab.engine, [[5, *prompt]], [None]):
        assert wrong_by(lab, ids, frames.matrix(lab.names)).max() <= 1


def test_who_shared_a_step_with_an_adapter_does_not_hand_it_on(lab):
    engine, (long, brief, late) = lab.engine.llm.llm_engine, random_prompts(3, seed=36, longest=20)
    plans = [lab.engine.plan() for _ in range(3)]

    def add(plan: Any, prompt: list[int], n: int, adapter: Any = None) -> None:
        engine.add_request(plan.request_id, {"prompt_token_ids": prompt}, sampling(plan, n), lora_request=adapter)

    add(plans[0], long, 200)
    add(plans[1], brief, 1, lab.adapter)
    ended: dict[str, list[int]] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                ended[output.request_id] = list(output.outputs[0].token_ids)
                if output.request_id == plans[1].request_id:
                    add(plans[2], late, 8)
    assert list(ended) == [plans[i].request_id for i in (1, 2, 0)], "the late one ran beside the long one"
    frames = lab.engine.collect({(p.request_id, 0) for p in plans})
    scores = [frames[p.request_id, 0].matrix(lab.names) for p in plans]
    assert np.isnan(scores[0][-1]).all()
    assert wrong_by(lab, (late + ended[plans[2].request_id])[:-1], scores[2]).max() <= 1


def test_requests_without_an_adapter_are_exact_when_they_are_alone(lab):
    for ids, _, frames in run(lab.engine, random_prompts(6, seed=35), [None] * 6):
        assert score_share(frames.matrix(lab.names), lab.reference.run(ids)[0].numpy()) <= 1


def test_the_adapter_of_this_test_really_changes_the_model(lab):
    prompts = random_prompts(4, seed=32)
    with_adapter = run(lab.engine, prompts, [lab.adapter] * 4)
    without = run(lab.engine, prompts, [None] * 4)
    assert [ids for ids, _, _ in with_adapter] != [ids for ids, _, _ in without]


def test_a_prompt_that_ran_with_the_adapter_is_scored_afterwards_without_it(lab):
    prompt = random_prompts(1, seed=33)[0] + list(range(20, 90))
    for used in (lab.adapter, None, lab.adapter, None):
        ids, _, frames = run(lab.engine, [prompt], [used])[0]
        scores = frames.matrix(lab.names)
        if used is not None:
            assert np.isnan(scores).all()
        else:
            assert score_share(scores, lab.reference.run(ids)[0].numpy()) <= 1


def test_no_rule_trips_on_a_request_with_an_adapter(lab):
    rules = [DetectorPlan("r", name, -NEVER, Action.STOP) for name in lab.names]
    _, output, frames = run(lab.engine, random_prompts(1, seed=34), [lab.adapter], detectors=rules)[0]
    assert output.finish_reason == "length"
    assert all(d.trip_position is None for d in frames.last.detectors)
