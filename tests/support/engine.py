"""A real vLLM engine with the plugin, and a collector of its frames."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from monitor.frames import Hello, RequestScores, ScoreFrame, decode_frame
from monitor.policy.plan import XARGS_KEY, DetectorPlan, GatePlan, sign_plan
from monitor.types import Steering
from probes.bundle import Bundle

KEY = secrets.token_bytes(32)
DEFAULTS = {
    "dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "max_num_batched_tokens": 256,
    "max_logprobs": -1, "logprobs_mode": "raw_logits", "seed": 0,
}  # fmt: skip


def generate(
    llm: Any, prompts: Sequence[Sequence[int]], plans: Sequence[GatePlan | None], **params: object
) -> list[Any]:
    """Generate greedily in one batch, each prompt under its plan (or none)."""
    from vllm import SamplingParams

    options = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, **params}
    sampling = [
        SamplingParams(**options, extra_args={XARGS_KEY: sign_plan(p, KEY)} if p is not None else None) for p in plans
    ]
    return llm.generate([{"prompt_token_ids": list(p)} for p in prompts], sampling, use_tqdm=False)


def start_llm(model: Path, **options: object) -> Any:
    """vLLM's offline ``LLM``, with the plugin if the environment says so."""
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="WARNING")
    from vllm import LLM

    return LLM(str(model), **{**DEFAULTS, **options})


def stop_llm(llm: Any) -> None:
    """Stop the engine's processes."""
    core = llm.llm_engine.engine_core
    core.shutdown(timeout=20)
    core.ctx.destroy(linger=0)  # vLLM leaves it to the garbage collector, which warns


class Engine:
    """vLLM's offline ``LLM`` (engine core and worker in processes of their own), instrumented."""

    def __init__(self, model: Path, bundle: Bundle, scratch: Path, **options: object) -> None:
        self.bundle = bundle
        self.endpoint = f"ipc://{scratch}/frames.sock"
        os.environ.update(
            PLUMBLINE_BUNDLE=str(bundle.path), PLUMBLINE_FRAMES=self.endpoint, PLUMBLINE_PLAN_KEY=KEY.hex()
        )
        self.llm = start_llm(model, **options)
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(self.endpoint)
        if not self._socket.poll(5000):
            raise TimeoutError("the engine does not say hello")
        self.hello: Hello = decode_frame(self._socket.recv())
        self._count = 0

    def plan(
        self, *, detectors: Sequence[DetectorPlan] = (), steering: Sequence[Steering] = (), n: int = 1,
        enforce: bool = True, hold: bool = False,
    ) -> GatePlan:  # fmt: skip
        """A plan with an id of its own."""
        self._count += 1
        return GatePlan(
            request_id=f"r{self._count}", policy="test", revision="1", bundle=self.bundle.digest,
            expires=time.time() + 600, enforce=enforce, hold=hold, n=n, detectors=tuple(detectors),
            steering=tuple(steering), score_last=hold,
        )  # fmt: skip

    def generate(self, prompts: Sequence[Sequence[int]], plans: Sequence[GatePlan | None], **params: object):
        """Generate under plans, in one batch; returns vLLM's outputs and each plan's collected frames."""
        outputs = generate(self.llm, prompts, plans, **params)
        return outputs, self.collect({(p.request_id, c) for p in plans if p is not None for c in range(p.n)})

    def collect(self, wanted: set[tuple[str, int]], timeout: float = 10.0) -> dict[tuple[str, int], Collected]:
        """Read frames until every wanted (request, choice) has ended."""
        found: dict[tuple[str, int], Collected] = {}
        deadline = time.monotonic() + timeout
        while not all(key in found and found[key].last.ended for key in wanted):
            if not self._socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
                raise TimeoutError(f"no end frame for {wanted - {k for k, v in found.items() if v.last.ended}}")
            frame = decode_frame(self._socket.recv())
            if isinstance(frame, Hello):
                self.hello = frame
                continue
            for part in frame.requests:
                found.setdefault((part.request_id, part.choice), Collected(self.hello)).add(part, self.n_columns)
        return found

    def close(self) -> None:
        """Stop the engine's processes."""
        stop_llm(self.llm)
        self._socket.close()

    @property
    def n_columns(self) -> int:
        return len(self.hello.probes)


class Collected:
    """All frames of one request: token scores by position, and the newest state."""

    def __init__(self, hello: Hello) -> None:
        self.columns = hello.probes
        self.tokens: dict[int, np.ndarray] = {}
        self.parts: list[RequestScores] = []

    @property
    def last(self) -> RequestScores:
        return self.parts[-1]

    def add(self, part: RequestScores, n_columns: int) -> None:
        self.parts.append(part)
        for offset, row in enumerate(part.matrix(n_columns)):
            position = part.first + offset
            assert position not in self.tokens, f"position {position} was reported twice"
            self.tokens[position] = row

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """``(n_tokens, n_probes)`` from position 0 on, without a gap."""
        assert sorted(self.tokens) == list(range(len(self.tokens))), "positions are missing"
        rows = np.stack([self.tokens[i] for i in range(len(self.tokens))])
        return rows[:, [self.columns.index(name) for name in names]]


__all__ = ["KEY", "Collected", "Engine", "ScoreFrame"]
