"""Requests that arrive while others run, in one real engine; some are given up on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import zmq

from monitor.frames import Hello, decode_frame
from monitor.policy.plan import XARGS_KEY, GatePlan, sign_plan
from tests.support.engine import KEY, Collected, Engine


@dataclass(frozen=True)
class Arrival:
    """One request and its moment.

    Attributes:
        step: it is added after this many outputs of the engine.
        prompt: token ids. plan: None: no plan.
        params: of vLLM's ``SamplingParams``; greedy and streamed (one output a step) where they say nothing else.
        abort_after: the caller gives up once it has this many tokens (0: as soon as it has asked); None: never.
    """

    step: int
    prompt: Sequence[int]
    plan: GatePlan | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    abort_after: int | None = None


@dataclass
class Choice:
    """What the caller received of one choice."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Mapping[int, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class Delivered:
    """What the caller received of one request."""

    choices: dict[int, Choice] = field(default_factory=dict)
    n_cached: int = 0
    aborted: bool = False

    @property
    def n_tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices.values())

    def take(self, output: Any) -> None:
        self.n_cached = max(self.n_cached, output.num_cached_tokens or 0)
        for part in output.outputs:
            choice = self.choices.setdefault(part.index, Choice())
            choice.tokens.extend(part.token_ids)
            choice.logprobs.extend(part.logprobs or ())
            choice.finish_reason, choice.stop_reason = part.finish_reason, part.stop_reason


def run_staggered(llm: Any, arrivals: Sequence[Arrival]) -> list[Delivered]:
    """Drive vLLM's ``LLMEngine`` step by step until every request has ended; results in the order of ``arrivals``."""
    engine, delivered = llm.llm_engine, [Delivered() for _ in arrivals]
    waiting = sorted(range(len(arrivals)), key=lambda i: arrivals[i].step, reverse=True)
    impatient: set[int] = set()
    now = 0
    while waiting or engine.has_unfinished_requests():
        while waiting and arrivals[waiting[-1]].step <= now:
            arrival = arrivals[index := waiting.pop()]
            engine.add_request(str(index), {"prompt_token_ids": list(arrival.prompt)}, _sampling(arrival))
            if arrival.abort_after is not None:
                impatient.add(index)
        for output in engine.step() if engine.has_unfinished_requests() else ():
            delivered[index := int(output.request_id)].take(output)
            if output.finished:
                impatient.discard(index)
        now += 1
        for index in [i for i in impatient if delivered[i].n_tokens >= arrivals[i].abort_after]:
            impatient.discard(index)
            delivered[index].aborted = True
            engine.abort_request([str(index)])
    return delivered


def _sampling(arrival: Arrival) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    options = {"temperature": 0.0, "ignore_eos": True, "output_kind": RequestOutputKind.DELTA, **arrival.params}
    extra = {XARGS_KEY: sign_plan(arrival.plan, KEY)} if arrival.plan is not None else None
    return SamplingParams(**options, extra_args=extra)


class FrameLog:
    """Every frame that an engine publishes while the log is open; none is dropped for a slow reader.

    Attributes:
        found: what was reported of each (request, choice).
        n_lost: frames whose sequence number never came.
    """

    def __init__(self, engine: Engine) -> None:
        self._hello = engine.hello
        self._sequence: int | None = None
        self.found: dict[tuple[str, int], Collected] = {}
        self.n_lost = 0
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(engine.endpoint)
        if not self._read(timeout=5.0):
            raise TimeoutError("the engine does not say hello; frames would be missed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(linger=0)

    def wait(self, wanted: set[tuple[str, int]], timeout: float = 60.0) -> None:
        """Read until every wanted (request, choice) and every other one that began has ended.

        Raises:
            TimeoutError: naming those without an end frame.
        """
        deadline = time.monotonic() + timeout
        while unended := {k for k in wanted | self.found.keys() if k not in self.found or not self.found[k].last.ended}:
            if not self._read(deadline - time.monotonic()) and time.monotonic() >= deadline:
                raise TimeoutError(f"no end frame for {len(unended)} choices, for example {sorted(unended)[:3]}")
        while self._read(timeout=0.0):  # what lies behind: it would be a report after the end
            pass

    def _read(self, timeout: float) -> bool:
        if not self._socket.poll(max(0, int(1000 * timeout))):
            return False
        frame = decode_frame(self._socket.recv())
        if isinstance(frame, Hello):
            self._hello = frame
            return True
        if self._sequence is not None:
            self.n_lost += frame.sequence - self._sequence - 1
        self._sequence = frame.sequence
        for part in frame.requests:
            key = part.request_id, part.choice
            self.found.setdefault(key, Collected(self._hello)).add(part, len(self._hello.probes))
        return True


def metric(llm: Any, name: str) -> float:
    """Sum of one of vLLM's own counters, for example ``vllm:num_preemptions``; the engine must keep its statistics."""
    values = [m.value for m in llm.get_metrics() if m.name == name]
    if not values:
        raise KeyError(f"vLLM reports no {name}; start the engine with disable_log_stats=False")
    return float(sum(values))
