"""The engine's end of the frame channel.

The step hands over its frame and goes on; a thread encodes and sends. The queue is bounded and drops the
newest frame when it is full, and ZeroMQ drops for a subscriber that does not keep up: both are counted by
sequence numbers at the other end, and neither slows the engine.

Runs in: vLLM worker (rank 0), in a thread of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid

import msgspec
import zmq

from monitor.frames import Hello, StepFrame, encode_frame

HEARTBEAT_SECONDS = 1.0
_QUEUE_FRAMES = 1024
_STOP = None

log = logging.getLogger(__name__)


class FramePublisher:
    """Binds ``endpoint`` and publishes frames and a heartbeat until :meth:`close`."""

    def __init__(
        self, endpoint: str, bundle: str, probes: tuple[str, ...], vllm: str, *, rank: int = 0, ranks: int = 1,
        untested: str = "",
    ) -> None:  # fmt: skip
        self.epoch = uuid.uuid4().hex
        self.errors = 0
        self._hello = Hello(
            epoch=self.epoch, sequence=0, bundle=bundle, probes=probes, vllm=vllm, self_test="",
            rank=rank, ranks=ranks, untested=untested,
        )  # fmt: skip
        self._dropped = 0
        self._sequence = 0
        self._queue: queue.Queue[StepFrame | None] = queue.Queue(maxsize=_QUEUE_FRAMES)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE_FRAMES)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.bind(endpoint)
        self._thread = threading.Thread(target=self._run, name="plumbline-frames", daemon=True)

    def start(self, self_test: str) -> None:
        """Begin to say hello; only after the self-test, because a hello means that the taps are alive."""
        self._hello = msgspec.structs.replace(self._hello, self_test=self_test)
        self._thread.start()

    def publish(
        self, heads: tuple[bytes, ...], tails: tuple[bytes, ...], numbers: bytes, folded: bytes, scores: bytes
    ) -> None:
        """Hand over one step's frame (see :class:`monitor.frames.StepFrame`); never blocks."""
        self._sequence += 1
        try:
            self._queue.put_nowait(StepFrame(self.epoch, self._sequence, heads, tails, numbers, folded, scores))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Send what is queued and stop."""
        if self._thread.is_alive():
            self._queue.put(_STOP)
            self._thread.join(timeout=2)

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while True:
                if time.monotonic() >= due:
                    self._say_hello()
                    due = time.monotonic() + HEARTBEAT_SECONDS
                try:
                    frame = self._queue.get(timeout=max(0.0, due - time.monotonic()))
                except queue.Empty:
                    continue
                if frame is _STOP:
                    return
                self._socket.send(encode_frame(frame))
        except zmq.ZMQError:
            log.exception("the frame channel failed; every request from now on is unscored")
        finally:
            self._socket.close()

    def _say_hello(self) -> None:
        now = msgspec.structs.replace(self._hello, sequence=self._sequence, errors=self.errors, dropped=self._dropped)
        self._socket.send(encode_frame(now))
