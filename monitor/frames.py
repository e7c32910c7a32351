"""The score frame: what the engine tells the monitor after every step.

Frames are cumulative: each carries the whole state of its requests' detectors, so that a lost frame is
healed by the next; only the token scores of a lost frame are gone (and then counted as unscored).
Encoded with msgpack. The engine publishes (ZeroMQ PUB), the monitor subscribes; a slow or dead monitor
loses frames and never slows the engine.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.errors import ConfigError, FrameError


def rank_endpoint(endpoint: str, rank: int) -> str:
    """Where a rank publishes: rank 0 at ``endpoint``, the others at ``<path>.<rank>`` (ipc) or ``port + rank`` (tcp).

    Raises:
        ConfigError: the endpoint is of a kind that has no place for further ranks.
    """
    if rank == 0:
        return endpoint
    if endpoint.startswith("ipc://"):
        return f"{endpoint}.{rank}"
    host, _, port = endpoint.rpartition(":")
    if endpoint.startswith("tcp://") and port.isdecimal():
        return f"{host}:{int(port) + rank}"
    raise ConfigError(f"frames: {endpoint!r} serves one rank; several need ipc://PATH or tcp://HOST:PORT")


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The handshake, repeated as a heartbeat: this engine is instrumented and its taps are alive.

    Attributes:
        epoch: random id of this engine start. sequence: the newest frame number sent.
        bundle: digest of the bundle. probes: column order of the token scores.
        vllm: version. self_test: what the self-test saw, for people.
        errors: exceptions swallowed by hooks since start (each made tokens unscored).
        dropped: frames that the engine could not send since start.
        rank: data-parallel rank. ranks: how many there are, each with an endpoint of its own.
        untested: what about this engine no parity result covers; empty if all is verified.
    """

    epoch: str
    sequence: int
    bundle: str
    probes: tuple[str, ...]
    vllm: str
    self_test: str
    errors: int = 0
    dropped: int = 0
    rank: int = 0
    ranks: int = 1
    untested: str = ""


class DetectorState(msgspec.Struct, frozen=True, array_like=True):
    """Cumulative state of one rule: folded score (None: unscored) and where it tripped.

    ``score`` is the newest folded score; ``trip_score`` the one that reached the threshold.
    """

    rule: str
    score: float | None
    trip_position: int | None = None
    trip_score: float | None = None


class RequestScores(msgspec.Struct, frozen=True, array_like=True):
    """One request's part of a frame.

    Attributes:
        request_id: the monitor's id. choice: 0-based index among n.
        plan: digest of the plan it runs under.
        n_prompt: prompt tokens.
        first: absolute position of the first row of ``scores``.
        scores: ``(n_tokens, n_columns)`` fp32, row-major bytes; NaN rows are unscored.
        seen: positions processed so far. scored: of those, how many have scores.
        detectors: cumulative, in the plan's order.
        cache_misses: of the unscored positions, those found in the prefix cache without kept scores.
        stopped: the rule for which the engine ends this request now, or None.
        ended: the engine is done with this request; no more frames follow.
    """

    request_id: str
    choice: int
    plan: str
    n_prompt: int
    first: int
    scores: bytes
    seen: int
    scored: int
    detectors: tuple[DetectorState, ...]
    stopped: str | None = None
    ended: bool = False
    cache_misses: int = 0

    def matrix(self, n_columns: int) -> NDArray[np.float32]:
        """Token scores as ``(n_tokens, n_columns)`` fp32.

        Raises:
            FrameError: the bytes do not divide into rows of ``n_columns``.
        """
        if n_columns < 1 or len(self.scores) % (4 * n_columns):
            raise FrameError(f"{len(self.scores)} bytes of scores do not divide into rows of {n_columns} columns")
        return np.frombuffer(self.scores, dtype=np.float32).reshape(-1, n_columns)


class ScoreFrame(msgspec.Struct, frozen=True, tag="scores"):
    """What one engine step produced; ``sequence`` counts up by one within an ``epoch``."""

    epoch: str
    sequence: int
    requests: tuple[RequestScores, ...]


Frame = Hello | ScoreFrame

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode_frame(frame: Frame) -> bytes:
    """Frame to bytes."""
    return _encoder.encode(frame)


def decode_frame(data: bytes) -> Frame:
    """Bytes to frame.

    Raises:
        FrameError: the bytes are no frame of this version.
    """
    try:
        frame: Frame = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"not a score frame: {error}; run the same Plumbline in engine and monitor") from error
    return frame
