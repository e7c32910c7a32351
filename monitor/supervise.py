"""Engine and monitor as one service: what ``plumbline serve`` and ``plumbline monitor`` do.

    check bundle, model and policy ─► start vLLM ─► wait for health and handshake ─► serve ─► drain ─► stop vLLM

Everything that can be wrong is looked at before the engine starts. The first part that fails stops all.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from monitor.app import Monitor, open_monitor, serve_monitor, stop_signals
from monitor.config import MonitorSettings
from monitor.engine_process import (
    EngineProcess,
    data_parallel_ranks,
    engine_command,
    engine_environment,
    free_port,
    running_engine,
)
from monitor.errors import ConfigError, EngineExitedError
from monitor.policy.compile import compile_plan
from monitor.policy.options import GuardOptions
from monitor.policy.plan import parse_key, sign_plan
from monitor.policy.steering import Names
from monitor.policy.store import Snapshot, load_snapshot
from probes.bundle import check_model, read_bundle, trusted_keys
from probes.fingerprint import resolve_model

_MAX_PARENT = 60  # bytes of the folder's parent; the path of a Unix socket ends at 107
_LOOK_EVERY = 0.25
_HANDSHAKE_SECONDS = 30.0  # from vLLM's health to our taps'
_DEFAULT_PLAN_SECONDS = 100 * 365 * 86_400.0  # the engine does not let its default plan expire
_SHOWN = 100  # characters of the engine's last line


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to start vLLM.

    Attributes:
        model: directory, or name in the local Hugging Face cache.
        port: on the loopback interface; 0 picks a free one.
        arguments: for ``vllm serve``; each is split like a shell does.
        names: of the model in the API; the bundle's if empty.
        log: file for its log lines.
        allow_untested: start it although it is outside of what the parity tests cover.
    """

    model: str
    port: int
    arguments: tuple[str, ...]
    names: tuple[str, ...]
    log: Path | None
    allow_untested: bool = False


async def supervise(
    options: EngineOptions, bundle_path: Path, policy: Path, settings: MonitorSettings, *, verbose: bool
) -> None:
    """Run engine and monitor until a signal, or until one of them fails.

    Raises:
        PlumblineError: with the reason of the first failure.
    """
    console = Console(stderr=True)
    bundle = read_bundle(bundle_path, trusted=trusted_keys(settings.trusted_keys))
    model = resolve_model(options.model)
    check_model(bundle, model)
    names = Names.of(bundle.manifest, settings.directions, settings.trusted_keys)
    snapshot = load_snapshot(policy, names)
    served = options.names or (bundle.manifest.model.name,)
    port = options.port or free_port()
    key = secrets.token_hex(32)
    with _private_folder() as folder, _log_sink(options.log, show=verbose or not console.is_terminal) as on_line:
        frames = f"ipc://{folder}/frames.sock"
        arguments = [part for text in options.arguments for part in shlex.split(text)]
        command = engine_command(str(model), port, served, arguments)
        environment = engine_environment(os.environ, str(bundle.path.resolve()), frames, key)
        environment["PLUMBLINE_DEFAULT_PLAN"] = default_plan(snapshot, names, bundle.digest, bytes.fromhex(key))
        if settings.directions is not None:
            environment["PLUMBLINE_DIRECTIONS"] = str(settings.directions.resolve())
        if settings.trusted_keys:
            environment["PLUMBLINE_TRUSTED_KEYS"] = os.pathsep.join(str(key.resolve()) for key in settings.trusted_keys)
        if options.allow_untested:
            environment["PLUMBLINE_ALLOW_UNTESTED"] = "1"
        if (ranks := data_parallel_ranks(arguments)) is not None:
            environment["PLUMBLINE_RANKS"] = str(ranks)
        url = f"http://127.0.0.1:{port}"
        settings = settings.model_copy(update={"engine_url": url, "frames": frames, "plan_key": SecretStr(key)})
        with stop_signals() as stop:
            async with running_engine(command, environment, on_line) as engine:
                watch = asyncio.create_task(engine.watch(), name="engine")
                try:
                    async with open_monitor(settings, bundle.manifest, bundle.digest, policy) as monitor:
                        if await _wait_ready(monitor, engine, watch, stop, console):
                            await serve_monitor(monitor, stop, watch, on_serving=_usage(console, served[0]))
                finally:
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
                    console.print("stopping the engine")


def default_plan(snapshot: Snapshot, names: Names, digest: str, key: bytes) -> str:
    """What the engine does with a request that comes without the gateway: the default policy, as it was at start."""
    plan = compile_plan(
        snapshot.select(None),
        GuardOptions(),
        names=names,
        digest=digest,
        revision=snapshot.revision,
        request_id="without-gateway",
        n=1,
        expires=time.time() + _DEFAULT_PLAN_SECONDS,
    )
    return sign_plan(plan, key)


async def beside(bundle_path: Path, policy: Path, settings: MonitorSettings) -> None:
    """Run only the monitor until a signal.

    Raises:
        PlumblineError: key, bundle or policy cannot be used, or a part failed.
    """
    parse_key(settings.plan_key.get_secret_value())
    bundle = read_bundle(bundle_path, trusted=trusted_keys(settings.trusted_keys))
    with stop_signals() as stop:
        async with open_monitor(settings, bundle.manifest, bundle.digest, policy) as monitor:
            await serve_monitor(monitor, stop, on_serving=_usage(Console(stderr=True), bundle.manifest.model.name))


async def _wait_ready(
    monitor: Monitor, engine: EngineProcess, watch: asyncio.Task[None], stop: asyncio.Event, console: Console
) -> bool:
    """Wait for vLLM's health and the handshake of our taps; False if a signal came first.

    Raises:
        EngineExitedError: it ended, did not come up in time, or its plugin is not there.
    """
    began = time.monotonic()
    healthy_since: float | None = None
    with console.status("starting the engine") as status:
        while not stop.is_set():
            if watch.done():
                watch.result()
            now = time.monotonic()
            if await monitor.upstream.healthy():
                healthy_since = healthy_since or now
                if monitor.receiver.taps_alive:
                    return True
                if now - healthy_since > _HANDSHAKE_SECONDS:
                    raise EngineExitedError(
                        "vLLM is up but its taps are silent: install Plumbline in the environment that vLLM runs in, "
                        "and look for plumbline in the engine's log (--verbose)"
                    )
            if now - began > monitor.settings.start_timeout:
                raise EngineExitedError(f"the engine was not ready after {now - began:.0f} s; see its log (--verbose)")
            line = escape(engine.last_line[:_SHOWN])
            status.update(f"starting the engine: {now - began:.0f} s  [dim]{line}[/dim]")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_EVERY)
    return False


def _usage(console: Console, model: str) -> Callable[[str, int, int], None]:
    """Says how to use what is now served."""

    def show(host: str, http: int, grpc: int) -> None:
        url = f"http://{host}:{http}"
        body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}'
        console.print(f"\n[bold green]ready[/bold green]  {url}/v1 (OpenAI API)  {url}/metrics  gRPC {host}:{grpc}")
        console.print("try it:", highlight=False)
        command = f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
        console.print(f"  {escape(command)}\n", highlight=False, soft_wrap=True)

    return show


@contextmanager
def _private_folder() -> Iterator[str]:
    """A folder that only this user can enter, with a path short enough for a Unix socket."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _MAX_PARENT:
        parent = Path("/tmp")  # noqa: S108  # the folder made in it is private
    with tempfile.TemporaryDirectory(prefix="plumbline-", dir=parent) as folder:
        yield folder


@contextmanager
def _log_sink(path: Path | None, *, show: bool) -> Iterator[Callable[[str], None]]:
    """Where the engine's log lines go: a file, the terminal with a prefix, both or neither.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file = path.open("a", encoding="utf-8") if path else None
    except OSError as error:
        raise ConfigError(f"--engine-log {path}: {error.strerror}") from error

    def take(line: str) -> None:
        if file is not None:
            file.write(line + "\n")
            file.flush()
        if show:
            sys.stderr.write(f"engine | {line}\n")

    try:
        yield take
    finally:
        if file is not None:
            file.close()
