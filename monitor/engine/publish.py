"""The engine's end of the frame channel.

The step encodes its frame and gives it to ZeroMQ, whose own thread sends it: handing it to a thread of ours would cost
the step more, because waking one takes a core from the forward pass. A ``PUB`` socket never blocks; it drops for a
subscriber that does not keep up, which sequence numbers tell the other end. A second thread says hello once a second.

Runs in: vLLM worker (rank 0).
"""

from __future__ import annotations

import logging
import threading
import uuid

import msgspec
import zmq

from monitor.frames import Hello, StepFrame, encode_frame

HEARTBEAT_SECONDS = 1.0
_QUEUE_FRAMES = 1024

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
        self._sequence = 0
        self._sending = threading.Lock()  # a socket may be used by several threads, one at a time
        self._closing = threading.Event()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE_FRAMES)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.bind(endpoint)
        self._thread = threading.Thread(target=self._run, name="plumbline-frames", daemon=True)

    def start(self, self_test: str) -> None:
        """Begin to say hello; only after the self-test, because a hello means that the taps are alive."""
        self._hello = msgspec.structs.replace(self._hello, self_test=self_test)
        self._say_hello()
        self._thread.start()

    def publish(
        self, heads: tuple[bytes, ...], tails: tuple[bytes, ...], numbers: bytes, folded: bytes, scores: bytes
    ) -> None:
        """Send one step's frame (see :class:`monitor.frames.StepFrame`); never blocks."""
        with self._sending:
            self._sequence += 1
            self._send(StepFrame(self.epoch, self._sequence, heads, tails, numbers, folded, scores))

    def close(self) -> None:
        """Send what is queued and stop."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        with self._sending:
            self._socket.close()

    def _run(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            self._say_hello()

    def _say_hello(self) -> None:
        with self._sending:
            self._send(msgspec.structs.replace(self._hello, sequence=self._sequence, errors=self.errors))

    def _send(self, frame: Hello | StepFrame) -> None:
        """A channel that failed is told once; what is not sent is unscored at the other end."""
        if self._socket.closed:
            return
        try:
            self._socket.send(encode_frame(frame), zmq.NOBLOCK)
        except zmq.ZMQError:
            log.exception("the frame channel failed; every request from now on is unscored")
            self._socket.close()
