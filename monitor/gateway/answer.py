"""POST /v1/chat/completions and /v1/completions: one guarded request, whole or streamed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.datastructures import Headers as RequestHeaders
from starlette.types import Receive, Scope, Send

from monitor.errors import RequestError
from monitor.gateway.body import ClientGoneError, read_json, read_options
from monitor.gateway.wire import (
    JSON_TYPE,
    Headers,
    encode,
    error_answer,
    guard_headers,
    guard_object,
    guarded_body,
    worst,
)
from monitor.guard import Chunk, Finished, Guard, GuardOptions
from monitor.types import Verdict

_log = logging.getLogger(__name__)
_SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_DONE = b"data: [DONE]\n\n"
_PENDING = "pending"  # the status header of a stream: its verdict comes with its last chunk

T = TypeVar("T")


class Answering:
    """An ASGI endpoint for one path of the OpenAI API."""

    def __init__(self, guard: Guard, path: str, max_body: int) -> None:
        self._guard = guard
        self._path = path
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = RequestHeaders(scope=scope)
        try:
            body = await read_json(headers, receive, self._max_body)
            options = read_options(headers, body)
            await unless_gone(receive, self._answer(body, options, send))
        except RequestError as error:
            status, extra, content = error_answer(error)
            await send_json(send, status, content, extra)
        except ClientGoneError:
            _log.debug("the caller of %s has gone", self._path)

    async def _answer(self, body: dict[str, Any], options: GuardOptions, send: Send) -> None:
        if body.get("stream") is True:
            async with aclosing(self._guard.stream(self._path, body, options)) as items:
                await _send_stream(items, send, several=body.get("n") not in (None, 1))
            return
        done = await self._guard.complete(self._path, body, options)
        overall = worst(done.verdicts)
        extra = guard_headers(overall.request_id, overall.policy, overall.status)
        await send_json(send, 200, guarded_body(done.body, done.verdicts, done.token_scores), extra)


async def _send_stream(items: AsyncGenerator[Chunk | Finished, None], send: Send, *, several: bool) -> None:
    """Send a stream; the header leaves with the first item, so never before the prompt's verdict.

    A chunk that may be the last one waits for the next item, which is there at once: the guard object of the
    whole answer rides on the last chunk.
    """
    waiting: Chunk | None = None
    started = False
    try:
        async for item in items:
            if isinstance(item, Chunk) and not started:
                await _send_start(send, item)
                started = True
            if waiting is not None:
                shown = _event(waiting, several=several)
                await _send_event(send, _with_guard(shown, item.verdicts) if isinstance(item, Finished) else shown)
                waiting = None
            if isinstance(item, Chunk) and (item.verdict is not None or item.choice < 0):
                waiting = item
            elif isinstance(item, Chunk):
                await _send_event(send, _event(item, several=several))
    except RequestError as error:
        if not started:
            raise
        _, _, content = error_answer(error)
        await _send_event(send, content)
    await send({"type": "http.response.body", "body": _DONE, "more_body": False})


async def _send_start(send: Send, first: Chunk) -> None:
    headers = [*_SSE_HEADERS, *guard_headers(first.request_id, first.policy, _PENDING)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def _event(chunk: Chunk, *, several: bool) -> dict[str, Any]:
    """The chunk with what belongs to it alone: its token scores, and among several choices its verdict."""
    payload = chunk.payload
    if several and chunk.verdict is not None:
        (choice,) = payload["choices"]
        payload = {**payload, "choices": [{**choice, "guard": guard_object(chunk.verdict)}]}
    return {**payload, "guard": {"token_scores": chunk.token_scores}} if chunk.token_scores else payload


def _with_guard(payload: dict[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The very last chunk, with the ``guard`` object of the whole answer."""
    return {**payload, "guard": {**guard_object(worst(verdicts)), **payload.get("guard", {})}}


async def _send_event(send: Send, payload: object) -> None:
    await send({"type": "http.response.body", "body": b"data: " + encode(payload) + b"\n\n", "more_body": True})


async def send_json(send: Send, status: int, content: object, extra: Headers | None = None) -> None:
    """One JSON answer."""
    data = encode(content)
    headers = [JSON_TYPE, (b"content-length", str(len(data)).encode()), *(extra or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``; cancel it when the caller closes the connection.

    Raises:
        ClientGoneError: the caller has closed it.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for running in (task, watcher):
            running.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
