"""``grpc.health.v1``: SERVING while the engine answers and its taps are alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from grpc_health.v1 import health, health_pb2  # type: ignore[import-untyped]  # ships no types

READY_SECONDS = 1.0

_log = logging.getLogger(__name__)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """The health of the server and of each service, which is the same: ``ready`` decides.

    ``ready`` is asked every :data:`READY_SECONDS`; one that raises counts as not ready.

    Attributes:
        servicer: to be added to the server.
    """

    def __init__(self, ready: Callable[[], bool], services: Sequence[str]) -> None:
        self.servicer = health.aio.HealthServicer()
        self._ready = ready
        self._names = ("", *services)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask once, then go on asking in the background."""
        serving = await self._ask(None)
        self._task = asyncio.create_task(self._poll(serving), name="grpc readiness")

    async def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.servicer.enter_graceful_shutdown()

    async def _poll(self, serving: bool) -> None:
        while True:
            await asyncio.sleep(READY_SECONDS)
            serving = await self._ask(serving)

    async def _ask(self, before: bool | None) -> bool:
        try:
            serving = self._ready()
        except Exception:  # noqa: BLE001  # whatever failed, the answer is "not ready", and it is logged
            _log.exception("the readiness check failed: NOT_SERVING")
            serving = False
        if serving is not before:
            for name in self._names:
                await self.servicer.set(name, _SERVING if serving else _NOT_SERVING)
        return serving
