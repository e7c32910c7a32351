"""The score frame: what the engine tells the monitor after every step.

Frames are cumulative: each carries the whole state of its requests' detectors, so that a lost frame is
healed by the next; only the token scores of a lost frame are gone (and then counted as unscored).

On the wire (msgpack) a step is columnar: what is constant for a request (``Head``) and what seldom changes (``Tail``)
are encoded once and sent again as they are, numbers are arrays over all requests of the step. So a step costs the
engine a few array copies, whatever the number of rules. The engine publishes (ZeroMQ PUB), the monitor subscribes; a
slow or dead monitor loses frames and never slows the engine.
"""

from __future__ import annotations

import functools

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


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The handshake, repeated as a heartbeat: this engine is instrumented and its taps are alive.

    Attributes:
        epoch: random id of this engine start. sequence: the newest frame number sent.
        bundle: digest of the bundle. probes: column order of the token scores.
        vllm: version. self_test: what the self-test saw, for people.
        errors: exceptions swallowed by hooks since start (each made tokens unscored).
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
    rank: int = 0
    ranks: int = 1
    untested: str = ""


class DetectorState(msgspec.Struct, frozen=True):
    """Cumulative state of one rule: folded score (None: unscored) and where it tripped.

    ``score`` is the newest folded score; ``trip_score`` the one that reached the threshold.
    """

    rule: str
    score: float | None
    trip_position: int | None = None
    trip_score: float | None = None


class RequestScores(msgspec.Struct, frozen=True):
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


class ScoreFrame(msgspec.Struct, frozen=True):
    """What one engine step produced; ``sequence`` counts up by one within an ``epoch``."""

    epoch: str
    sequence: int
    requests: tuple[RequestScores, ...]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What is constant for one request; ``rules`` are names, each with its column of ``StepFrame.folded``."""

    request_id: str
    choice: int
    plan: str
    n_prompt: int
    rules: tuple[tuple[str, int], ...]


class Tail(msgspec.Struct, frozen=True, array_like=True):
    """What seldom changes; ``trips`` are position and score of each rule, None where it did not trip."""

    trips: tuple[tuple[int, float] | None, ...]
    stopped: str | None = None
    ended: bool = False
    cache_misses: int = 0


class StepFrame(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """A :class:`ScoreFrame` as it travels, for n requests.

    Attributes:
        heads, tails: encoded :class:`Head` and :class:`Tail` of each request.
        numbers: ``(n, 4)`` int64: first position, bytes of scores, positions seen, positions scored.
        folded: ``(n, width)`` fp64, newest folded scores; NaN: unscored.
        scores: ``(all tokens, n_columns)`` fp32, request after request.
    """

    epoch: str
    sequence: int
    heads: tuple[bytes, ...]
    tails: tuple[bytes, ...]
    numbers: bytes
    folded: bytes
    scores: bytes


Frame = Hello | ScoreFrame

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello | StepFrame)
encode_part = _encoder.encode
"""A :class:`Head` or :class:`Tail` to bytes."""
_head = functools.lru_cache(4096)(msgspec.msgpack.Decoder(Head).decode)
_tail = functools.lru_cache(4096)(msgspec.msgpack.Decoder(Tail).decode)


def encode_frame(frame: Frame | StepFrame) -> bytes:
    """Frame to bytes."""
    return _encoder.encode(_columnar(frame) if isinstance(frame, ScoreFrame) else frame)


def decode_frame(data: bytes) -> Frame:
    """Bytes to frame.

    Raises:
        FrameError: the bytes are no frame of this version.
    """
    try:
        frame = _decoder.decode(data)
        return frame if isinstance(frame, Hello) else _expand(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise FrameError(f"not a score frame: {error}; run the same Plumbline in engine and monitor") from error


def _expand(frame: StepFrame) -> ScoreFrame:
    n = len(frame.heads)
    numbers = np.frombuffer(frame.numbers, dtype=np.int64).reshape(n, 4).tolist()
    folded = np.frombuffer(frame.folded, dtype=np.float64).reshape(n, -1).tolist() if n else []
    if sum(size for _, size, _, _ in numbers) != len(frame.scores):
        raise ValueError(f"{len(frame.scores)} bytes of scores, other than its requests have")
    requests, begin = [], 0
    for i, (first, size, seen, scored) in enumerate(numbers):
        head, tail = _head(frame.heads[i]), _tail(frame.tails[i])
        end = begin + size
        states = zip(head.rules, tail.trips, strict=True)
        requests.append(
            RequestScores(
                request_id=head.request_id, choice=head.choice, plan=head.plan, n_prompt=head.n_prompt,
                first=first, scores=frame.scores[begin:end], seen=seen, scored=scored,
                detectors=tuple(
                    DetectorState(rule, _known(folded[i][at]), *(trip or (None, None))) for (rule, at), trip in states
                ),
                stopped=tail.stopped, ended=tail.ended, cache_misses=tail.cache_misses,
            )
        )  # fmt: skip
        begin = end
    return ScoreFrame(frame.epoch, frame.sequence, tuple(requests))


def _columnar(frame: ScoreFrame) -> StepFrame:
    """The general way in; the engine makes its own (:mod:`monitor.engine.report`)."""
    parts, width = frame.requests, max((len(p.detectors) for p in frame.requests), default=0)
    sizes = [len(p.scores) for p in parts]
    folded = np.full((len(parts), width), np.nan)
    for row, part in zip(folded, parts, strict=True):
        row[: len(part.detectors)] = [np.nan if d.score is None else d.score for d in part.detectors]
    return StepFrame(
        frame.epoch, frame.sequence,
        heads=tuple(
            encode_part(
                Head(p.request_id, p.choice, p.plan, p.n_prompt, tuple((d.rule, i) for i, d in enumerate(p.detectors)))
            )
            for p in parts
        ),
        tails=tuple(
            encode_part(Tail(tuple(_trip(d) for d in p.detectors), p.stopped, p.ended, p.cache_misses)) for p in parts
        ),
        numbers=np.array(
            [(p.first, size, p.seen, p.scored) for p, size in zip(parts, sizes, strict=True)], dtype=np.int64
        ).tobytes(),
        folded=folded.tobytes(),
        scores=b"".join(p.scores for p in parts),
    )  # fmt: skip


def _trip(state: DetectorState) -> tuple[int, float] | None:
    if state.trip_position is None or state.trip_score is None:
        return None
    return state.trip_position, state.trip_score


def _known(score: float) -> float | None:
    return None if np.isnan(score) else score
