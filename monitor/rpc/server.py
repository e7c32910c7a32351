"""The gRPC server: services, health, reflection, and a shutdown that never hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]  # no types
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # no types

from monitor.errors import ConfigError
from monitor.rpc.guard_service import GuardLike, GuardService
from monitor.rpc.monitor_service import MonitorService, ScoreSource, VerdictSource
from monitor.rpc.readiness import Readiness
from monitor.rpc.shutdown import Shutdown
from monitor.v1 import guard_pb2, guard_pb2_grpc, monitor_pb2, monitor_pb2_grpc

GUARD = guard_pb2.DESCRIPTOR.services_by_name["GuardService"].full_name
MONITOR = monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"].full_name
SERVICES = (GUARD, MONITOR)
DEFAULT_PORT = 50051
FLUSH_SECONDS = 0.5  # for clients to take what was written for them
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class GrpcServer:
    """A running server.

    Attributes:
        port: the TCP port it listens on.
    """

    def __init__(self, server: aio.Server, port: int, shutdown: Shutdown, readiness: Readiness) -> None:
        self.port = port
        self._server = server
        self._shutdown = shutdown
        self._readiness = readiness
        self._lock = asyncio.Lock()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, send watchers home, and wait for checks and generations.

        Streams that nobody can end (health watchers, clients that stopped reading) are cancelled
        :data:`FLUSH_SECONDS` after the last check or generation.

        Args:
            grace: seconds that running checks and generations get before they are cancelled.
        """
        async with self._lock:  # grpc's server crashes when it is stopped twice at once
            self._shutdown.begin()
            await self._readiness.stop()
            flush = min(grace, FLUSH_SECONDS) if await self._shutdown.idle(grace) else None
            await self._server.stop(flush)


async def start_grpc(
    guard: GuardLike,
    receiver: ScoreSource,
    recorder: VerdictSource,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    ready: Callable[[], bool],
    reflect: bool = True,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> GrpcServer:
    """Start serving ``monitor.v1`` on a TCP port, without TLS.

    Args:
        guard: answers checks and generations.
        receiver: source of token scores.
        recorder: source of verdicts.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        ready: whether the engine answers and its taps are alive; asked every second, must not block.
        reflect: whether clients may ask which services there are (`buf curl` needs it).
        max_message_bytes: largest message, either way; a larger one ends its call with RESOURCE_EXHAUSTED.

    Returns:
        The running server; stop it with :meth:`GrpcServer.stop`.

    Raises:
        ConfigError: the port cannot be bound.
    """
    server = aio.server(options=_options(max_message_bytes))
    shutdown = Shutdown()
    readiness = Readiness(ready, SERVICES)
    guard_pb2_grpc.add_GuardServiceServicer_to_server(GuardService(guard, shutdown), server)
    monitor_pb2_grpc.add_MonitorServiceServicer_to_server(MonitorService(receiver, recorder, shutdown), server)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
    if reflect:
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"gRPC cannot listen on {address} ({error}); free the port or choose another") from error
    await readiness.start()
    await server.start()
    return GrpcServer(server, bound, shutdown, readiness)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Channel arguments: see grpc's ``grpc_types.h``."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),  # a second server on our port must fail, not take half of the calls
        ("grpc.keepalive_time_ms", 30_000),  # a client that vanished is noticed within 40 s
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # watchers may ping while nothing happens
        ("grpc.keepalive_permit_without_calls", 1),
    ]
