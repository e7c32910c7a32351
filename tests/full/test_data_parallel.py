"""Two data-parallel ranks: each scores its own requests, on an endpoint of its own."""

from __future__ import annotations

import asyncio
import time
import warnings
from pathlib import Path

import pytest
import zmq

from monitor.frames import Hello, decode_frame, rank_endpoint
from monitor.policy.plan import XARGS_KEY, GatePlan, sign_plan
from tests.support.parity import STEERINGS, random_prompts, score_share
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(1800)]

N = 16


async def generate(model: Path, prompts, plans, key: bytes):
    """The generated token ids of each request, from one server with two ranks."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=str(model), dtype="float32", max_model_len=256, enforce_eager=True, data_parallel_size=2)
    )

    async def one(prompt, plan):
        params = SamplingParams(
            max_tokens=8, temperature=0.0, ignore_eos=True, extra_args={XARGS_KEY: sign_plan(plan, key)}
        )
        async for output in engine.generate({"prompt_token_ids": prompt}, params, plan.request_id):
            last = output
        return list(last.outputs[0].token_ids)

    try:
        return await asyncio.gather(*[one(prompt, plan) for prompt, plan in zip(prompts, plans, strict=True)])
    finally:
        engine.shutdown()


def test_every_token_of_every_request_is_scored_by_the_rank_that_ran_it(tmp_path, monkeypatch):
    from tests.support.engine import KEY, Collected

    model = make_model(tmp_path / "model")
    bundle = make_bundle(tmp_path / "bundle", model)
    endpoint = f"ipc://{tmp_path}/frames"
    settings = {
        "PLUMBLINE_BUNDLE": str(bundle.path), "PLUMBLINE_FRAMES": endpoint, "PLUMBLINE_PLAN_KEY": KEY.hex(),
        "PLUMBLINE_RANKS": "2", "VLLM_CPU_OMP_THREADS_BIND": "0|1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0", "PLUMBLINE_ALLOW_UNTESTED": "1",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    prompts = random_prompts(N, seed=1)
    plans = [
        GatePlan(
            request_id=f"r{i}", policy="test", revision="1", bundle=bundle.digest, expires=time.time() + 900,
            enforce=True, hold=False, n=1, detectors=(), steering=STEERINGS[i % len(STEERINGS)],
        )
        for i in range(N)
    ]  # fmt: skip
    with zmq.Context() as context:
        sockets = [context.socket(zmq.SUB) for _ in range(2)]
        for rank, socket in enumerate(sockets):
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.connect(rank_endpoint(endpoint, rank))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vLLM and its dependencies warn while they are imported
            tokens = asyncio.run(generate(model, prompts, plans, KEY))
        served, ranks = [], set()
        for rank, socket in enumerate(sockets):
            mine: dict[str, Collected] = {}
            while socket.poll(500):
                frame = decode_frame(socket.recv())
                if isinstance(frame, Hello):
                    hello = frame
                    ranks.add((hello.rank, hello.ranks))
                    continue
                for part in frame.requests:
                    mine.setdefault(part.request_id, Collected(hello)).add(part, len(hello.probes))
            served.append(mine)
            socket.close(linger=0)
            assert mine, f"rank {rank} served nothing"
    assert ranks == {(0, 2), (1, 2)}
    assert not served[0].keys() & served[1].keys()
    everything = served[0] | served[1]
    reference, names = Reference(model, bundle), [p.name for p in bundle.manifest.probes]
    for prompt, plan, ids in zip(prompts, plans, tokens, strict=True):
        wanted, _ = reference.run((prompt + ids)[:-1], plan.steering)
        assert score_share(everything[plan.request_id].matrix(names), wanted.numpy()) <= 1
