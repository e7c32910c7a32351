"""The composition root: makes the parts, starts them as named tasks, and stops them all when one fails.

Runs in: the monitor process, one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from monitor.config import MonitorSettings
from monitor.errors import ConfigError
from monitor.gateway.routes import create_gateway
from monitor.guard import Guard
from monitor.policy.plan import parse_key
from monitor.policy.steering import Names
from monitor.policy.store import PolicyStore
from monitor.record.metrics import Metrics
from monitor.record.recorder import Recorder
from monitor.rpc.server import start_grpc
from monitor.session import Receiver, SessionTable
from monitor.upstream import Upstream
from probes.types import Manifest


@dataclass(frozen=True, slots=True)
class Monitor:
    """The parts of one monitor."""

    settings: MonitorSettings
    store: PolicyStore
    receiver: Receiver
    upstream: Upstream
    recorder: Recorder
    guard: Guard
    gateway: Starlette
    frames: asyncio.Task[None]


@asynccontextmanager
async def open_monitor(
    settings: MonitorSettings, manifest: Manifest, digest: str, policy: Path
) -> AsyncIterator[Monitor]:
    """Make all parts, receive frames while open, and close the parts in order.

    Raises:
        ConfigError: key, policy or the folder of directions cannot be used.
    """
    metrics = Metrics()
    metrics.show_bundle(manifest, digest)
    key = parse_key(settings.plan_key.get_secret_value())
    names = Names.of(manifest, settings.directions, settings.trusted_keys)
    store = PolicyStore(policy, names, metrics.reloaded)
    sessions = SessionTable([probe.name for probe in manifest.probes], metrics.dropped)
    receiver = Receiver(
        settings.frames,
        digest,
        sessions,
        metrics.dropped,
        heartbeat_timeout=settings.heartbeat_timeout,
        buffer=settings.frame_buffer,
    )
    metrics.watch_engine(lambda: receiver.taps_alive, lambda: bool(receiver.untested))
    recorder = Recorder(metrics, manifest)
    upstream = Upstream(
        settings.engine_url,
        connect_timeout=settings.connect_timeout,
        request_timeout=settings.request_timeout,
        max_event=settings.max_event,
    )
    guard = Guard(
        store=store,
        sessions=sessions,
        receiver=receiver,
        upstream=upstream,
        recorder=recorder,
        names=names,
        digest=digest,
        key=key,
        settings=settings,
    )
    gateway = create_gateway(guard, upstream, receiver, metrics, settings.max_body)
    frames = asyncio.create_task(receiver.run(), name="frames")
    try:
        yield Monitor(settings, store, receiver, upstream, recorder, guard, gateway, frames)
    finally:
        await guard.close()
        frames.cancel()
        await asyncio.gather(frames, return_exceptions=True)
        await upstream.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: ours decide."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        ConfigError: the address cannot be bound.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from error


@asynccontextmanager
async def serving_http(gateway: Starlette, listener: socket.socket, drain: float) -> AsyncIterator[asyncio.Task[None]]:
    """Serve HTTP; on the way out stop accepting, and give requests in flight ``drain`` seconds."""
    config = uvicorn.Config(
        gateway,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield task
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def serve_monitor(
    monitor: Monitor,
    stop: asyncio.Event,
    *watched: asyncio.Task[None],
    on_serving: Callable[[str, int, int], None],
) -> None:
    """Serve HTTP and gRPC until ``stop`` is set or something watched ends; SIGHUP reloads the policies.

    Args:
        monitor: what to serve.
        stop: set by a signal.
        watched: tasks without which serving makes no sense.
        on_serving: told host, HTTP port and gRPC port once both are served.

    Raises:
        ConfigError: a port is taken.
        Exception: what the first failing task raised.
    """
    settings, loop = monitor.settings, asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, monitor.store.reload)
    listener = listen(settings.host, settings.port)
    grpc_server = await start_grpc(
        monitor.guard,
        monitor.receiver,
        monitor.recorder,
        host=settings.host,
        port=settings.grpc_port,
        ready=lambda: monitor.receiver.taps_alive,
    )
    try:
        async with serving_http(monitor.gateway, listener, settings.drain_timeout) as http:
            on_serving(settings.host, listener.getsockname()[1], grpc_server.port)
            stopping = asyncio.create_task(_wait(stop), name="stop")
            done, _ = await asyncio.wait(
                {stopping, http, monitor.frames, *watched}, return_when=asyncio.FIRST_COMPLETED
            )
            stopping.cancel()
    finally:
        await grpc_server.stop(settings.drain_timeout)
        loop.remove_signal_handler(signal.SIGHUP)
    for task in done:
        task.result()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
