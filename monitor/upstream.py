"""The client of vLLM's HTTP server.

Closing a stream closes its connection, which makes vLLM abort the request.

Runs in: the monitor, one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from monitor.errors import EngineRefusedError, UpstreamError
from monitor.sse import DONE, SseParser

_HEALTH_TIMEOUT = 2.0


class Upstream:
    """Talks to one vLLM server; make it inside a running event loop and :meth:`close` it."""

    def __init__(self, url: str, *, connect_timeout: float, request_timeout: float, max_event: int) -> None:
        self._url = url.rstrip("/")
        self._max_event = max_event
        timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=connect_timeout)
        connector = aiohttp.TCPConnector(limit=0)
        self._client = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post a request and read its whole answer.

        Raises:
            EngineRefusedError: 4xx.
            UpstreamError: anything else but a JSON object with status 200.
        """
        async with self._answer(path, body) as response:
            return _object(await response.read())

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Post a request and yield the events of its stream, decoded; ends at ``[DONE]``.

        Raises:
            EngineRefusedError: 4xx.
            UpstreamError: the engine failed or the stream broke off.
        """
        parser = SseParser(self._max_event)
        async with self._answer(path, body) as response:
            async for data in response.content.iter_any():
                for event in parser.feed(data):
                    if event == DONE:
                        return
                    yield _object(event)
        raise UpstreamError("the engine's stream broke off before its end; see the engine's log")

    async def detokenize(self, model: str, tokens: list[int]) -> str:
        """The text of some tokens, by vLLM's own tokenizer."""
        answer = await self.post("/detokenize", {"model": model, "tokens": tokens})
        text = answer.get("prompt")
        if not isinstance(text, str):
            raise UpstreamError("the engine's /detokenize answered without a prompt")
        return text

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET.

        Raises:
            UpstreamError: the engine cannot be reached.
        """
        try:
            async with self._client.get(self._url + path, allow_redirects=False) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._down(error) from error

    async def healthy(self) -> bool:
        """Whether vLLM says that it is."""
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                status, _ = await self.get("/health")
        except (UpstreamError, TimeoutError):
            return False
        return status == 200

    @asynccontextmanager
    async def _answer(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response with status 200, its connection closed on the way out unless it was read to its end."""
        data = msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        try:
            async with self._client.post(
                self._url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                try:
                    yield response
                finally:
                    if not response.content.at_eof():
                        response.close()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._down(error) from error

    def _down(self, error: Exception) -> UpstreamError:
        what = "did not answer in time" if isinstance(error, TimeoutError) else f"cannot be reached ({error})"
        return UpstreamError(f"the engine {what}; see the engine's log")


def _refusal(status: int, data: bytes) -> EngineRefusedError | UpstreamError:
    if not 400 <= status < 500:
        return UpstreamError(f"the engine answered with status {status}; see the engine's log")
    try:
        body: object = msgspec.json.decode(data)
    except msgspec.DecodeError:
        body = {"error": {"message": data.decode(errors="replace")[:2000], "type": "invalid_request_error"}}
    return EngineRefusedError(f"the engine refused the request with status {status}", status, body)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise UpstreamError(f"the engine sent something that is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UpstreamError("the engine sent JSON that is not an object")
    return value
