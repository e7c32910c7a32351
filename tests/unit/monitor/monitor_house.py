"""The real gateway in front of the stand-in engine, and the real clients that talk to it."""

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import openai
from monitor_samples import DIGEST, KEY, MANIFEST, PROBES
from stand_in import StandIn, running

from monitor.app import listen, open_monitor, serving_http
from monitor.config import MonitorSettings


@contextlib.asynccontextmanager
async def house(tmp_path: Path, policy: Path, **settings: Any) -> Any:
    """The real gateway on a loopback port, in front of the stand-in engine."""
    endpoint = f"ipc://{tmp_path}/frames.sock"
    async with running(StandIn(endpoint, DIGEST, KEY, PROBES)) as engine:
        values = {"engine_url": engine.url, "frames": endpoint, "plan_key": KEY.hex(), "frame_timeout": 5}
        values |= {"drain_timeout": 1} | settings
        made = MonitorSettings(**values)
        async with open_monitor(made, MANIFEST, DIGEST, policy) as monitor:
            listener = listen("127.0.0.1", 0)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with (
                serving_http(monitor.gateway, listener, 1),
                openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
                aiohttp.ClientSession(url) as http,
            ):
                await eventually(lambda: monitor.receiver.taps_alive)
                parts = SimpleNamespace(engine=engine, monitor=monitor, client=client, http=http, url=url, before={})
                yield parts


async def eventually(condition: Any, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def wait_for_frames(parts: Any, seconds: float) -> None:
    """Requests from now on wait so long for scores that are missing."""
    guard = parts.monitor.guard
    guard._settings = guard._settings.model_copy(update={"frame_timeout": seconds})


async def silence(parts: Any) -> None:
    """Stop the engine's heartbeat, as long ago as it takes to be noticed."""
    parts.engine.silent = True
    await asyncio.sleep(0.1)  # what was sent before has arrived
    parts.monitor.receiver._ranks.forget(0)


async def chat(parts: Any, **fields: Any) -> Any:
    """A whole chat completion with the real client."""
    guard = fields.pop("guard", None)
    extra = {"guard": guard} if guard is not None else {}
    extra |= fields.pop("extra", {})
    messages = fields.pop("messages", [{"role": "user", "content": "hello"}])
    return await parts.client.chat.completions.create(model="organism", messages=messages, extra_body=extra, **fields)


async def stream_chat(parts: Any, **fields: Any) -> Any:
    """All chunks of a streamed chat completion."""
    return [chunk async for chunk in await chat(parts, stream=True, **fields)]


def text_of(chunks: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def finish_of(chunks: Any) -> str | None:
    return next(c.choices[0].finish_reason for c in reversed(chunks) if c.choices)


def counters(parts: Any) -> dict[Any, float]:
    collected = parts.monitor.recorder._metrics.registry.collect()
    samples = (sample for family in collected for sample in family.samples)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples if s.name.endswith("_total")}


def metric(parts: Any, name: str, **labels: str) -> float:
    """Value of a gauge, or how far a counter has counted in this test."""
    value = parts.monitor.recorder._metrics.registry.get_sample_value(name, labels) or 0.0
    return value - parts.before.get((name, tuple(sorted(labels.items()))), 0.0)
