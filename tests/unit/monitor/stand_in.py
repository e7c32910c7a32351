"""A small engine for tests: speaks vLLM's HTTP and server-sent events, and sends real frames.

It checks the signed plan, scores each position as its script says, folds with max, gates in the same step, and
scores a held length-capped last token with one step more, as the real engine does. Faults are scripted.
"""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import zmq
import zmq.asyncio
from aiohttp import web

from monitor.errors import PlanError
from monitor.frames import DetectorState, Hello, RequestScores, ScoreFrame, encode_frame
from monitor.policy.plan import GatePlan, verify_plan

LOW = -5.0


@dataclass
class Script:
    """What the engine does with each request.

    Attributes:
        n_prompt: prompt tokens. tokens: the response's texts, without EOS.
        finish: "stop" (an EOS follows), "length", or "string" (a stop string ends it).
        scores: logits by (position, probe); LOW elsewhere. nan: positions without a score.
        lose: steps whose frames are lost; "tail" loses all from ``lose_from`` on.
        new_epoch_at: step before which the engine restarts (its frames then come with a new epoch).
        delay: seconds before each frame goes out. pace: seconds per step.
        break_at: step at which the connection breaks. final_scored: a stop string's last token gets a score.
    """

    n_prompt: int = 4
    tokens: tuple[str, ...] = ("one ", "two ", "three ", "four ")
    finish: str = "stop"
    scores: dict[tuple[int, str], float] = field(default_factory=dict)
    nan: frozenset[int] = frozenset()
    lose: frozenset[int] = frozenset()
    lose_from: int = 10**6
    new_epoch_at: int | None = None
    delay: float = 0.0
    pace: float = 0.0
    break_at: int | None = None
    hang_at: int | None = None
    final_scored: bool = False
    refuse: tuple[int, dict[str, Any]] | None = None
    coalesce: int = 1


class StandIn:
    """The engine; ``script`` may be replaced between requests."""

    def __init__(self, endpoint: str, digest: str, key: bytes, probes: tuple[str, ...], seed: int = 0) -> None:
        self.endpoint, self.digest, self.key, self.probes = endpoint, digest, key, probes
        self.random = random.Random(seed)
        self.script = Script()
        self.silent = False
        self.healthy = True
        self.epoch = "epoch-1"
        self.sequence = 0
        self.requests: list[dict[str, Any]] = []
        self.plans: list[GatePlan] = []
        self.aborted: list[str] = []
        self.chopped = False
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        self._context = zmq.asyncio.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.bind(self.endpoint)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        self._spawn(self._beat())

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stop_http()
        self._pub.close(linger=0)
        self._context.term()

    async def stop_http(self) -> None:
        await self._runner.cleanup()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _beat(self) -> None:
        while True:
            await self.hello()
            await asyncio.sleep(0.05)

    async def hello(self) -> None:
        if not self.silent:
            hello = Hello(self.epoch, self.sequence, self.digest, self.probes, "0.32.0", "ok")
            await self._pub.send(encode_frame(hello))

    async def send(self, data: bytes) -> None:
        await self._pub.send(data)

    async def _publish(self, part: RequestScores, lost: bool, delay: float) -> None:
        self.sequence += 1
        data = encode_frame(ScoreFrame(self.epoch, self.sequence, (part,)))
        if lost or self.silent:
            return
        if delay:
            self._spawn(self._later(data, delay))
        else:
            await self._pub.send(data)

    async def _later(self, data: bytes, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._pub.send(data)

    # --- HTTP

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "organism", "object": "model"}]})

    async def _detokenize(self, request: web.Request) -> web.Response:
        tokens = (await request.json())["tokens"]
        return web.json_response({"prompt": "".join(self.script.tokens[token - 100] for token in tokens)})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, chat: bool) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        script = self.script
        if script.refuse:
            return web.json_response(script.refuse[1], status=script.refuse[0])
        try:
            plan = verify_plan(body.get("vllm_xargs", {}).get("plumbline"), self.key, self.digest)
        except PlanError as error:
            return web.json_response({"error": {"message": str(error), "code": 400}}, status=400)
        self.plans.append(plan)
        if body.get("stream"):
            return await self._stream(request, body, plan, script, chat)
        counts, whole = {}, []
        for index in range(plan.n):
            text, count, last, ids = "", 0, ("stop", None), []
            try:
                async for event in self._generate(plan, index, script):
                    text += event["text"]
                    count = event["count"]
                    if event["finish"]:
                        last = (event["finish"], event["stop_reason"])
            except asyncio.CancelledError:
                self.aborted.append(plan.request_id)
                await self._publish(self._last_parts[plan.request_id, index], False, 0)
                raise
            ids = [100 + i for i in range(count)]
            counts[index] = count
            token_ids = ids if body.get("return_token_ids") else None
            choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": last[0]}
            choice |= {"stop_reason": last[1], "token_ids": token_ids}
            if chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
            else:
                choice["text"] = text
            whole.append(choice)
        total = sum(counts.values())
        return web.json_response(
            {
                "id": "cmpl-1",
                "object": "chat.completion" if chat else "text_completion",
                "created": 1,
                "model": "organism",
                "choices": whole,
                "usage": self._usage(script.n_prompt, total),
                "system_fingerprint": "vllm-0.32.0-stand-in",
                "prompt_token_ids": [7] * script.n_prompt if body.get("return_token_ids") else None,
            }
        )

    def _usage(self, n_prompt: int, n_completion: int) -> dict[str, int]:
        return {
            "prompt_tokens": n_prompt,
            "total_tokens": n_prompt + n_completion,
            "completion_tokens": n_completion,
        }

    async def _stream(
        self, request: web.Request, body: dict[str, Any], plan: GatePlan, script: Script, chat: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        options = body.get("stream_options") or {}
        continuous = options.get("include_usage") and options.get("continuous_usage_stats")
        base = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1,
            "model": "organism",
        }

        async def write(choice: dict[str, Any], count: int) -> None:
            chunk = {**base, "choices": [choice]}
            if continuous:
                chunk["usage"] = self._usage(script.n_prompt, count)
            await self._write(response, b"data: " + msgspec.json.encode(chunk) + b"\n\n")

        counts = [0] * plan.n
        try:
            runs = [self._generate(plan, index, script) for index in range(plan.n)]
            live = set(range(plan.n))
            first = True
            while live:
                for index in sorted(live):
                    event = await anext(runs[index], None)
                    if first and chat:
                        for i in range(plan.n):
                            role = {"role": "assistant", "content": ""}
                            await write({"index": i, "delta": role, "logprobs": None, "finish_reason": None}, 0)
                    first = False
                    if event is None:
                        live.discard(index)
                        continue
                    if not event["count"]:
                        continue  # vLLM omits chunks without tokens, also the one with the finish reason
                    if event["step"] == script.break_at:
                        request.transport.abort()
                        return response
                    counts[index] = event["count"]
                    choice: dict[str, Any] = {"index": index}
                    choice |= {"delta": {"content": event["text"]}} if chat else {"text": event["text"]}
                    choice |= {"logprobs": None, "finish_reason": event["finish"]}
                    if event["finish"]:
                        choice["stop_reason"] = event["stop_reason"]
                    await write(choice, event["count"])
            if options.get("include_usage"):
                usage = {**base, "choices": [], "usage": self._usage(script.n_prompt, sum(counts))}
                usage["system_fingerprint"] = "vllm-0.32.0-stand-in"
                await self._write(response, b"data: " + msgspec.json.encode(usage) + b"\n\n")
            await self._write(response, b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.aborted.append(plan.request_id)
            for index in range(plan.n):
                await self._publish(self._last_parts[plan.request_id, index], False, 0)
            raise
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        while self.chopped and data:
            size = self.random.randint(1, 40)
            await response.write(data[:size])
            data = data[size:]
            if self.random.random() < 0.2:
                await asyncio.sleep(0)
        if data:
            await response.write(data)

    # --- the engine

    _last_parts: dict[tuple[str, int], RequestScores] = {}

    async def _generate(self, plan: GatePlan, index: int, script: Script) -> Any:
        """Yield one event per step (or per ``coalesce`` steps): text, count, finish, stop_reason."""
        first, best = 0, {d.rule: LOW for d in plan.detectors}
        trips: dict[str, tuple[int, float]] = {}
        scored = 0
        n = len(script.tokens)
        held = ""
        for step in range(n + 2):
            if script.pace:
                await asyncio.sleep(script.pace)
            if script.new_epoch_at == step and index == 0:
                self.epoch, self.sequence = f"epoch-{time.monotonic_ns()}", 0
                await self.hello()
            if script.hang_at == step:
                await asyncio.sleep(30)
            positions = range(script.n_prompt) if step == 0 else range(first, first + 1)
            rows = np.full((len(positions), len(self.probes)), LOW, dtype=np.float32)
            for row, position in enumerate(positions):
                for column, probe in enumerate(self.probes):
                    rows[row, column] = script.scores.get((position, probe), LOW)
                if position in script.nan:
                    rows[row] = np.nan
                    continue
                scored += 1
                for d in plan.detectors:
                    value = float(rows[row, self.probes.index(d.probe)])
                    best[d.rule] = max(best[d.rule], value)
                    if value >= d.threshold and d.rule not in trips:
                        trips[d.rule] = (position, value)
            stopped = None
            if plan.enforce:
                stopped = next((d.rule for d in plan.detectors if d.action.ends and d.rule in trips), None)
            seen = positions[-1] + 1
            string = script.finish == "string"
            eos_now = script.finish == "stop" and step == n  # this step samples EOS
            capped = script.finish == "length" and step == n - 1 and not plan.score_last
            extra = script.finish == "length" and step == n
            cut_string = string and step == n - 1 and not script.final_scored
            after_string = string and step == n
            ended = bool(stopped or eos_now or capped or extra or cut_string or after_string)
            part = RequestScores(
                request_id=plan.request_id,
                choice=index,
                plan=plan.digest,
                n_prompt=script.n_prompt,
                first=positions[0],
                scores=rows.tobytes(),
                seen=seen,
                scored=scored,
                detectors=tuple(
                    DetectorState(d.rule, best[d.rule], *trips.get(d.rule, (None, None))) for d in plan.detectors
                ),
                stopped=stopped,
                ended=ended,
            )
            first = seen
            empty = msgspec.structs.replace(part, first=seen, scores=b"", ended=True)
            self._last_parts[plan.request_id, index] = empty
            lost = step in script.lose or step >= script.lose_from
            await self._publish(part, lost, script.delay)
            shown = min(step, n)
            if stopped:
                yield self._event(step, held, shown, "stop", f"plumbline:{stopped}")
                return
            if eos_now:
                yield self._event(step, held, n + 1, "stop", None)
                return
            if extra or after_string:
                yield self._event(step, held, n, "length" if extra else "stop", None if extra else "END")
                return
            held += script.tokens[step]
            if capped or cut_string:
                yield self._event(step, held, n, "length" if capped else "stop", None if capped else "END")
                return
            if (step + 1) % script.coalesce == 0:
                yield self._event(step, held, step + 1, None, None)
                held = ""

    def _event(self, step: int, text: str, count: int, finish: str | None, stop_reason: str | None) -> dict[str, Any]:
        return {"step": step, "text": text, "count": count, "finish": finish, "stop_reason": stop_reason}


@contextlib.asynccontextmanager
async def running(stand_in: StandIn) -> Any:
    await stand_in.start()
    try:
        yield stand_in
    finally:
        await stand_in.stop()
