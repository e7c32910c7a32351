"""Adapters: a request with one is wholly unscored, and no request without one has a wrong score.

A bundle was made for the base model; what its probes read under an adapter means nothing that was ever measured. vLLM's
CPU kernels index the adapters with -1 for "none", which is the last slot: in a mixed batch a request without an adapter
may run with that one. Such requests are unscored from that step on.
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
from tests.integration.conftest import start
from tests.support.adapter import RANK, make_adapter
from tests.support.engine import KEY, Collected
from tests.support.parity import random_prompts, score_share
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model

pytestmark = [pytest.mark.vllm, pytest.mark.full]

NEVER = 1e9


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
        max_num_batched_tokens=64,
    )  # fmt: skip
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("random", 1, str(make_adapter(folder / "adapter", model)))
    yield Lab(engine, adapter, Reference(model, bundle))
    engine.close()


def run(
    engine: Any, prompts: Sequence[Sequence[int]], adapters: Sequence[Any], **plan: Any
) -> list[tuple[list[int], Any, Collected]]:
    """Generate greedily in one batch, each prompt with its adapter (or none): ids, vLLM's choice, frames."""
    from vllm import SamplingParams

    plans = [engine.plan(**plan) for _ in prompts]
    sampling = [
        SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, extra_args={XARGS_KEY: sign_plan(p, KEY)})
        for p in plans
    ]
    tokens = [{"prompt_token_ids": list(p)} for p in prompts]
    outputs = engine.llm.generate(tokens, sampling, use_tqdm=False, lora_request=list(adapters))
    frames = engine.collect({(p.request_id, 0) for p in plans})
    return [
        ((list(prompt) + list(output.outputs[0].token_ids))[:-1], output.outputs[0], frames[plan.request_id, 0])
        for prompt, output, plan in zip(prompts, outputs, plans, strict=True)
    ]


def test_in_a_mixed_batch_no_score_is_wrong(lab):
    prompts = random_prompts(12, seed=31)
    adapters = [lab.adapter if i % 3 == 0 else None for i in range(12)]
    for used, (ids, _, frames) in zip(adapters, run(lab.engine, prompts, adapters), strict=True):
        scores = frames.matrix(lab.names)
        assert len(scores) == len(ids)
        if used is not None:
            assert np.isnan(scores).all()
            continue
        scored = ~np.isnan(scores).any(1)
        assert scored[: int(scored.sum())].all(), "once unscored, a request stays it"
        wanted = lab.reference.run(ids)[0].numpy()
        bound = 1e-3 * np.maximum(np.abs(wanted), wanted.std(0))
        assert (np.abs(scores - wanted) / bound)[scored].max(initial=0.0) <= 1


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
