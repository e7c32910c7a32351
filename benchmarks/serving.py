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
_SPIN_SECONDS = 0.005
"""Threads of OpenMP go on spinning for a while after the last parallel region of a step."""
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


def serve(
    llm: Any, prompts: Sequence[list[int]], plans: Sequence[GatePlan | None], n_new: int, turn: int | None
) -> Iterator[Served | None]:
    """Send all requests at once, greedy, each under its plan (or none), and read tokens until all are done.

    Plans are signed before the clock starts (the gateway's work); the engine verifies them on the clock.

    Args:
        llm: of vLLM.
        prompts: token ids. plans: of each. n_new: tokens of each response.
        turn: steps after which it is another engine's turn; None: there is no other.

    Yields:
        None whenever a turn is over (the clock stands still until the next item is asked for); the result at last.
    """
    llm.reset_prefix_cache()
    engine, clock = llm.llm_engine, Clock()
    last: dict[str, float] = {}
    first: dict[str, float] = {}
    gaps: list[float] = []
    tokens = 0
    params = [_sampling(plan, n_new) for plan in plans]
    began = clock.now()
    for prompt, sampling in zip(prompts, params, strict=True):
        request_id = str(next(_request_ids))
        last[request_id] = clock.now()
        engine.add_request(request_id, {"prompt_token_ids": prompt}, sampling)
    for step in itertools.count(1):
        outputs = engine.step()
        now = clock.now()
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
        if not engine.has_unfinished_requests():
            break
        if turn is not None and step % turn == 0:
            with clock.standing_still():
                yield None
    seconds = clock.now() - began
    if tokens != n_new * len(prompts):
        raise RuntimeError(f"the engine gave {tokens} tokens, wanted {n_new * len(prompts)}: see its log")
    yield Served(seconds, tokens, tuple(first.values()), tuple(gaps), clock.idle_cores)


def _sampling(plan: GatePlan | None, n_new: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=n_new, temperature=0.0, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA,
        extra_args={XARGS_KEY: sign_plan(plan, KEY)} if plan is not None else None,
    )  # fmt: skip


class Clock:
    """Seconds of this process's own turns."""

    def __init__(self) -> None:
        self._stood = 0.0
        self._cpu = 0.0

    def now(self) -> float:
        """Seconds, without those in which it stood still."""
        return time.perf_counter() - self._stood

    @property
    def idle_cores(self) -> float:
        """CPU cores that this process used while the clock stood still."""
        return self._cpu / self._stood if self._stood else 0.0

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The other engine's turn, once the threads of this one are at rest."""
        began = time.perf_counter()
        time.sleep(_SPIN_SECONDS)
        cpu = time.process_time()
        try:
            yield
        finally:
            self._stood += time.perf_counter() - began
            self._cpu += time.process_time() - cpu


def stop(llm: Any) -> None:
    """Stop the engine, and its processes if it has any."""
    core = llm.llm_engine.engine_core
    core.shutdown(timeout=20)
    if hasattr(core, "ctx"):  # where the engine core has a process of its own
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
