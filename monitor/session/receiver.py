"""The subscribing end of the frame channel, and whether the taps are alive.

Runs in: the monitor, as one asyncio task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq
import zmq.asyncio

from monitor.errors import ConfigError, FrameError
from monitor.fanout import Subscription
from monitor.frames import Hello, decode_frame, rank_endpoint
from monitor.session.ranks import Ranks
from monitor.session.table import ScoreUpdate, SessionTable

_log = logging.getLogger(__name__)


class Receiver:
    """Feeds the session table from the frames of all ranks of the engine.

    The taps are alive while every rank of an engine with *our* bundle has sent a heartbeat within the last
    ``heartbeat_timeout`` seconds. A rank with another bundle is reported and counts as silent.
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
        self._ranks = Ranks()
        self._refused: set[str] = set()  # epochs with another bundle, each told once

    @property
    def taps_alive(self) -> bool:
        """Whether scores can be trusted to arrive."""
        return self._ranks.alive(self._heartbeat_timeout)

    @property
    def untested(self) -> str:
        """What about the engine no parity test covers, in its own words; empty if all is."""
        return self._ranks.untested

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
            connected = 0
            while True:
                for rank in range(connected, self._ranks.count):  # rank 0 tells of the others
                    self._connect(socket, rank_endpoint(self._endpoint, rank))
                connected = max(connected, self._ranks.count)
                parts = await socket.recv_multipart()
                self.take(parts[-1])
        finally:
            socket.close(linger=0)
            context.term()

    @staticmethod
    def _connect(socket: zmq.asyncio.Socket, endpoint: str) -> None:
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"frames: {endpoint!r} is no ZeroMQ endpoint ({error}); give the engine's PLUMBLINE_FRAMES"
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
        rank = self._ranks.rank_of(frame.epoch)
        if rank is None:
            self._on_drop("no_handshake", 1)
            return
        self._table.apply(frame, rank)

    def _greet(self, hello: Hello) -> bool:
        """Whether this heartbeat vouches for our bundle on one of the engine's ranks."""
        if hello.bundle != self._digest:
            self._refuse(hello)
            return False
        if not 0 <= hello.rank < self._ranks.count:
            return True  # of an engine that is gone, or ahead of its rank 0: it has no handshake
        self._tell(hello)
        for gone in self._ranks.greet(hello):
            self._table.forget(gone)
        return True

    def _tell(self, hello: Hello) -> None:
        """Log what people should know and have not been told of this engine start."""
        before = self._ranks.hello(hello.rank)
        known = before if before is not None and before.epoch == hello.epoch else None
        if hello.errors > (known.errors if known else 0):
            _log.error("the engine's hooks have failed %d times so far; those tokens are unscored", hello.errors)
        if hello.untested and known is None:
            _log.warning("no parity test covers this engine (%s): its scores may be wrong", hello.untested)

    def _refuse(self, hello: Hello) -> None:
        if hello.epoch not in self._refused:
            _log.error(
                "the engine runs bundle %s, this monitor has %s: its scores are not used; "
                "start both with the same bundle",
                hello.bundle[:12],
                self._digest[:12],
            )
        self._refused.add(hello.epoch)
        self._ranks.forget(hello.rank)
        self._on_drop("foreign_bundle", 1)
