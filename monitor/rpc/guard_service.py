"""``GuardService``: check a conversation, or generate under a policy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from grpc import aio

from monitor.answers import Chunk, Finished
from monitor.errors import BlockedError
from monitor.policy.options import GuardOptions
from monitor.rpc.convert import SCORES_PER_MESSAGE, token_score_to_proto, verdict_to_proto
from monitor.rpc.requests import generate_body, messages_from_proto, options_from_proto
from monitor.rpc.shutdown import Shutdown
from monitor.rpc.status import answering, refuse
from monitor.types import TokenScore, Verdict
from monitor.v1 import guard_pb2 as pb
from monitor.v1 import guard_pb2_grpc

_FINISH_REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
}


class GuardLike(Protocol):
    """What this service needs of :class:`monitor.guard.Guard`."""

    def stream(self, path: str, body: dict[str, Any], options: GuardOptions) -> AsyncGenerator[Chunk | Finished, None]:
        """Answer one request as a stream."""
        ...

    async def check(
        self, messages: Sequence[dict[str, Any]], options: GuardOptions, model: str | None = None
    ) -> Verdict:
        """Score a conversation without generating."""
        ...


class GuardService(guard_pb2_grpc.GuardServiceServicer):
    """Hands each call to the guard and its answer back.

    A policy that trips before the first token is an answer here, not an error: the guard's BlockedError
    becomes its verdict.
    """

    def __init__(self, guard: GuardLike, shutdown: Shutdown) -> None:
        self._guard = guard
        self._shutdown = shutdown

    async def Check(  # noqa: N802  # named by the .proto file
        self, request: pb.CheckRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.CheckResponse:
        """Read a conversation and give a verdict on it."""
        with self._shutdown.call():
            async with answering(context, "GuardService.Check"):
                if self._shutdown.begun:
                    await refuse(context)
                turns = messages_from_proto(request.messages)
                options = options_from_proto(request.guard, token_scores=False)
                verdict = await self._guard.check(turns, options, request.model or None)
                return pb.CheckResponse(verdict=verdict_to_proto(verdict))

    # A coroutine that writes to the context, not a generator: a call that is cancelled while a slow client
    # makes `write` wait then unwinds through `aclosing`, which aborts the engine's request.
    async def Generate(  # type: ignore[override]  # noqa: N802
        self, request: pb.GenerateRequest, context: aio.ServicerContext[Any, pb.GenerateResponse]
    ) -> None:
        """Answer a conversation under a policy, with the score of every token."""
        with self._shutdown.call():
            async with answering(context, "GuardService.Generate"):
                if self._shutdown.begun:
                    await refuse(context)
                finished = await self._stream(request, context)
                await context.write(pb.GenerateResponse(finished=finished))

    async def _stream(
        self, request: pb.GenerateRequest, context: aio.ServicerContext[Any, pb.GenerateResponse]
    ) -> pb.Finished:
        """Write the deltas; returns what the stream ends with."""
        path, body = generate_body(request)
        options = options_from_proto(request.guard, token_scores=True)
        usage: pb.Usage | None = None
        verdicts: tuple[Verdict, ...] | None = None
        try:
            async with aclosing(self._guard.stream(path, body, options)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        verdicts = event.verdicts
                        continue
                    usage = _usage(event) or usage
                    for delta in _deltas(event):
                        await context.write(pb.GenerateResponse(delta=delta))
        except BlockedError as blocked:
            verdicts = (blocked.verdict,)
        if verdicts is None:
            raise RuntimeError("the guard's stream ended without a verdict")
        return pb.Finished(verdicts=[verdict_to_proto(verdict) for verdict in verdicts], usage=usage)


def _deltas(chunk: Chunk) -> Iterator[pb.Delta]:
    """The deltas of one chunk of OpenAI's stream; a chunk that says nothing (a bare role) yields none.

    Scores go first, in messages of bounded size, so that a text's last delta has its scores before it.
    """
    scores = chunk.token_scores
    for start in range(0, len(scores), SCORES_PER_MESSAGE):
        yield _scores_delta(chunk.choice, scores[start : start + SCORES_PER_MESSAGE])
    for choice in chunk.payload.get("choices", ()):
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        reason = choice.get("finish_reason")
        if text or reason:
            finish = _FINISH_REASONS.get(reason, pb.FINISH_REASON_OTHER) if reason else pb.FINISH_REASON_UNSPECIFIED
            yield pb.Delta(choice=choice.get("index", chunk.choice), text=text, finish_reason=finish)


def _scores_delta(choice: int, scores: Sequence[TokenScore]) -> pb.Delta:
    return pb.Delta(choice=choice, token_scores=[token_score_to_proto(token) for token in scores])


def _usage(chunk: Chunk) -> pb.Usage | None:
    """The usage that a chunk reports, or None."""
    usage = chunk.payload.get("usage")
    if not usage:
        return None
    return pb.Usage(
        prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0
    )
