"""The subscribing end of the frame channel, and whether the taps are alive.

Runs in: the monitor, as one asyncio task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq
import zmq.asyncio

from monitor.errors import ConfigError, FrameError
from monitor.fanout import Subscription
from monitor.frames import Hello, decode_frame
from monitor.session.table import ScoreUpdate, SessionTable

_log = logging.getLogger(__name__)


class Receiver:
    """Feeds the session table from the engine's frames.

    The taps are alive while an engine with *our* bundle has sent a heartbeat within the last
    ``heartbeat_timeout`` seconds. An engine with another bundle is reported and counts as silent.

    Attributes:
        handshake: the newest heartbeat of our bundle's engine; None before the first.
    """

    def __init__(
        self,
        endpoint: str,
        digest: str,
        table: SessionTable,
        on_drop: Callable[[str, int], None],
        *,
        heartbeat_timeout: float = 5.0,
        buffer: int = 100_000,
    ) -> None:
        self._endpoint = endpoint
        self._digest = digest
        self._table = table
        self._on_drop = on_drop
        self._heartbeat_timeout = heartbeat_timeout
        self._buffer = buffer
        self._last_hello = float("-inf")
        self._epoch: str | None = None
        self._foreign: str | None = None
        self.handshake: Hello | None = None

    @property
    def taps_alive(self) -> bool:
        """Whether scores can be trusted to arrive."""
        return time.monotonic() - self._last_hello <= self._heartbeat_timeout

    def subscribe_scores(self, size: int = 1024) -> Subscription[ScoreUpdate]:
        """Watch the scores of all requests; a slow watcher loses the oldest, counted in ``dropped``."""
        return self._table.updates.subscribe(size)

    async def run(self) -> None:
        """Receive until cancelled.

        Raises:
            ConfigError: the endpoint makes no sense.
        """
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        try:
            socket.setsockopt(zmq.RCVHWM, self._buffer)
            socket.setsockopt(zmq.RECONNECT_IVL, 50)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            self._connect(socket)
            while True:
                parts = await socket.recv_multipart()
                self.take(parts[-1])
        finally:
            socket.close(linger=0)
            context.term()

    def _connect(self, socket: zmq.asyncio.Socket) -> None:
        try:
            socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"frames: {self._endpoint!r} is no ZeroMQ endpoint ({error}); give the engine's PLUMBLINE_FRAMES"
            ) from error

    def take(self, data: bytes) -> None:
        """Take over one message; one that is no frame of ours is counted and skipped."""
        try:
            frame = decode_frame(data)
        except FrameError as error:
            self._on_drop("undecodable", 1)
            _log.warning("skipped a message on the frame channel: %s", error)
            return
        if isinstance(frame, Hello) and not self._greet(frame):
            return
        if frame.epoch != self._epoch:
            self._on_drop("no_handshake", 1)
            return
        self._table.apply(frame)

    def _greet(self, hello: Hello) -> bool:
        """Whether this heartbeat vouches for our bundle."""
        if hello.bundle != self._digest:
            self._refuse(hello)
            return False
        before = self.handshake
        known = before.errors if before is not None and before.epoch == hello.epoch else 0
        if hello.errors > known:
            _log.error("the engine's hooks have failed %d times so far; those tokens are unscored", hello.errors)
        self._last_hello = time.monotonic()
        self._epoch = hello.epoch
        self.handshake = hello
        return True

    def _refuse(self, hello: Hello) -> None:
        if self._foreign != hello.epoch:
            _log.error(
                "the engine runs bundle %s, this monitor has %s: its scores are not used; "
                "start both with the same bundle",
                hello.bundle[:12],
                self._digest[:12],
            )
        self._foreign = hello.epoch
        self._epoch = None
        self._last_hello = float("-inf")
        self._on_drop("foreign_bundle", 1)
