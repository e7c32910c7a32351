"""Run the demonstration against a real engine and a real monitor.

First each request alone, to be read; then all of them at once with a crowd of differently steered requests in
the same batch, where every expectation must hold again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from rich.console import Console

from monitor.demo.answer import Answer, ask
from monitor.demo.scenario import Step, script
from monitor.demo.show import show_how_to_play_on, show_step
from monitor.engine_process import free_port
from monitor.errors import ConfigError

MODEL = "organism"
_CROWD = 24
_START_SECONDS = 300.0
_STOP_SECONDS = 40.0
_LOG_LINES = 30


async def run_demo(console: Console, model: Path, bundle: Path, policy: Path) -> bool:
    """Whether everything that was expected happened.

    Raises:
        ConfigError: the engine did not start; with the end of its log.
    """
    steps = script()
    console.print(f"Starting stock vLLM with taps on {model}, and the monitor in front of it.", soft_wrap=True)
    async with served(console, model, bundle, policy) as url, aiohttp.ClientSession() as http:
        good = True
        for number, step in enumerate(steps, 1):
            answer = await ask(http, url, step.body(MODEL))
            failed = failures(step, answer)
            good = good and not failed
            show_step(console, number, step, answer, failed)
        good = await _crowded(console, http, url, steps) and good
    verdict = "Everything happened as expected." if good else "Something did NOT happen as expected; see above."
    console.print(f"\n{verdict}", style="bold green" if good else "bold red")
    if good:
        show_how_to_play_on(console)
    return good


def failures(step: Step, answer: Answer) -> list[str]:
    """The expectations that were not met, in words."""
    return [words for words, holds in step.checks if not holds(answer)]


async def _crowded(console: Console, http: aiohttp.ClientSession, url: str, steps: Sequence[Step]) -> bool:
    """All steps at once, among requests with other steerings."""
    crowd = []
    for i in range(_CROWD):
        steering = {"direction": "refusal", "operator": ("add", "ablate")[i % 2], "strength": 0.04 * (i + 1)}
        body = steps[i % len(steps)].body(MODEL)
        crowd.append({**body, "guard": {"policy": "watch", "steering": [steering]}})
    answers = await asyncio.gather(
        *(ask(http, url, body) for body in crowd[: _CROWD // 2]),
        *(ask(http, url, step.body(MODEL)) for step in steps),
        *(ask(http, url, body) for body in crowd[_CROWD // 2 :]),
    )
    mine = answers[_CROWD // 2 : _CROWD // 2 + len(steps)]
    others = [*answers[: _CROWD // 2], *answers[_CROWD // 2 + len(steps) :]]
    wrong = {step.title: failed for step, a in zip(steps, mine, strict=True) if (failed := failures(step, a))}
    unanswered = sum(a.status != 200 for a in others)
    console.print(
        f"\nThe same {len(steps)} requests at once, among {_CROWD} requests with other steerings in one batch: "
        f"{len(steps) - len(wrong)} of {len(steps)} as expected."
    )
    for title, failed in wrong.items():
        console.print(f"  {title}: {'; '.join(failed)}", style="bold red")
    if unanswered:
        console.print(f"  {unanswered} of the others were not answered", style="bold red")
    return not wrong and not unanswered


@asynccontextmanager
async def served(console: Console, model: Path, bundle: Path, policy: Path) -> AsyncIterator[str]:
    """A running ``plumbline serve`` on free ports; its base URL.

    Raises:
        ConfigError: it ended before it was ready, or was not ready in time; with the end of its log.
    """
    port, grpc_port = free_port(), free_port()
    with tempfile.NamedTemporaryFile(prefix="plumbline-demo-", suffix=".log") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "monitor.cli", "serve",
            "--model", str(model), "--bundle", str(bundle), "--policy", str(policy),
            "--served-model-name", MODEL, "--port", str(port), "--grpc-port", str(grpc_port),
            "--engine-arg=--dtype float32 --max-model-len 512",
            stdout=log, stderr=log, env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ},
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            if not await _ready(console, process, url):
                lines = Path(log.name).read_text(errors="replace").splitlines()  # noqa: ASYNC240  # nothing else runs now
                raise ConfigError("plumbline serve did not come up:\n" + "\n".join(lines[-_LOG_LINES:]))
            yield url
        finally:
            await _stop(process)


async def _ready(console: Console, process: asyncio.subprocess.Process, url: str) -> bool:
    """Wait until requests are answered; False if it ended, or takes too long."""
    began = time.monotonic()
    with console.status("starting vLLM and the monitor") as status:
        async with aiohttp.ClientSession() as http:
            while process.returncode is None and (waited := time.monotonic() - began) < _START_SECONDS:
                status.update(f"starting vLLM and the monitor: {waited:.0f} s (about 60)")
                with suppress(aiohttp.ClientConnectionError):  # it is still starting
                    async with http.get(f"{url}/readyz") as response:
                        if response.status == 200:
                            return True
                await asyncio.sleep(0.5)
    return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
