"""Start engines, plain or monitored, and time batches of requests in the client, without HTTP."""

from __future__ import annotations

import itertools
import os
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from benchmarks.models import ASSISTANT, USER
from benchmarks.pairs import Served
from monitor.frames import Hello, decode_frame
from monitor.policy.plan import XARGS_KEY, GatePlan, sign_plan
from probes.bundle import Bundle

KEY = secrets.token_bytes(32)
PROMPT_TOKENS = 32
OPTIONS: dict[str, Any] = {
    "dtype": "bfloat16", "max_model_len": 512, "max_num_seqs": 64, "max_num_batched_tokens": 2048, "seed": 0,
    "skip_tokenizer_init": True, "use_tqdm_on_load": False,
}  # fmt: skip
_FRAMES_REST_MS = 200
_request_ids = itertools.count()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These environment variables are set inside, and as before afterwards."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start_plain(model: Path, **options: Any) -> Any:
    """Start stock vLLM; our plugin is there and inert, as without a bundle."""
    return _start(model, {"PLUMBLINE_BUNDLE": ""}, options)


def start_monitored(model: Path, bundle: Bundle, endpoint: str, operators: str, **options: Any) -> Any:
    """Start vLLM with the plugin, prepared for these ``operators``, which publishes its frames at ``endpoint``."""
    settings = {
        "PLUMBLINE_BUNDLE": str(bundle.path), "PLUMBLINE_FRAMES": endpoint, "PLUMBLINE_PLAN_KEY": KEY.hex(),
        "PLUMBLINE_ALLOW_UNTESTED": "1", "PLUMBLINE_OPERATORS": operators,
    }  # fmt: skip
    return _start(model, settings, options)


def _start(model: Path, settings: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    """Start vLLM's offline ``LLM``; its processes inherit the environment that it starts in."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with environment({**quiet, **settings}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and its dependencies warn while they are imported
        from vllm import LLM

        return LLM(str(model), **{**OPTIONS, **options})


def random_prompts(n: int, vocab: int, rng: np.random.Generator) -> list[list[int]]:
    """Token ids of ``n`` prompts of one user turn."""
    bodies = rng.integers(7, vocab, size=(n, PROMPT_TOKENS - 2)).tolist()
    return [[USER, *body, ASSISTANT] for body in bodies]


def serve(llm: Any, prompts: Sequence[list[int]], plans: Sequence[GatePlan | None], n_new: int) -> Served:
    """Send all requests at once, greedy, each under its plan (or none), and read tokens until all are done.

    Plans are signed before the clock starts (the gateway's work); the engine verifies them on the clock.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = [
        SamplingParams(
            max_tokens=n_new, temperature=0.0, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA,
            extra_args={XARGS_KEY: sign_plan(plan, KEY)} if plan is not None else None,
        )
        for plan in plans
    ]  # fmt: skip
    llm.reset_prefix_cache()
    engine = llm.llm_engine
    last: dict[str, float] = {}
    first: dict[str, float] = {}
    gaps: list[float] = []
    tokens = 0
    began = time.perf_counter()
    for prompt, sampling in zip(prompts, params, strict=True):
        request_id = str(next(_request_ids))
        last[request_id] = time.perf_counter()
        engine.add_request(request_id, {"prompt_token_ids": prompt}, sampling)
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            if not output.outputs[0].token_ids:
                continue
            tokens += len(output.outputs[0].token_ids)
            since = now - last[output.request_id]
            last[output.request_id] = now
            if output.request_id in first:
                gaps.append(since)
            else:
                first[output.request_id] = since
    seconds = time.perf_counter() - began
    if tokens != n_new * len(prompts):
        raise RuntimeError(f"the engine gave {tokens} tokens, wanted {n_new * len(prompts)}: see its log")
    return Served(seconds, tokens, tuple(first.values()), tuple(gaps))


def stop(llm: Any) -> None:
    """Stop the engine's processes."""
    core = llm.llm_engine.engine_core
    core.shutdown(timeout=20)
    core.ctx.destroy(linger=0)  # vLLM leaves it to the garbage collector, which warns


class Frames:
    """A subscriber like the monitor: takes every frame, and here only counts."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(endpoint)
        if not self._socket.poll(10_000):
            raise TimeoutError(f"the engine does not say hello at {endpoint}; see its log")

    def drain(self) -> tuple[int, int]:
        """``(frames, bytes)`` since the last call, heartbeats aside; waits until nothing more comes."""
        frames = size = 0
        while self._socket.poll(_FRAMES_REST_MS):
            data = self._socket.recv()
            if not isinstance(decode_frame(data), Hello):
                frames, size = frames + 1, size + len(data)
        return frames, size

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close()
