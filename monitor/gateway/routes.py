"""The HTTP application."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.gateway.answer import Answering
from monitor.gateway.status import StatusPages
from monitor.guard import CHAT_PATH, COMPLETIONS_PATH, Guard
from monitor.record.metrics import Metrics
from monitor.session import Receiver
from monitor.upstream import Upstream

_log = logging.getLogger(__name__)


def create_gateway(guard: Guard, upstream: Upstream, receiver: Receiver, metrics: Metrics, max_body: int) -> Starlette:
    """The ASGI application; each app has its own guard, upstream and metrics."""
    pages = StatusPages(upstream, receiver, metrics)
    answers = [
        Route(path, Answering(guard, path, max_body), methods=["POST"]) for path in (CHAT_PATH, COMPLETIONS_PATH)
    ]
    return Starlette(
        routes=[
            *answers,
            Route("/v1/models", pages.models),
            Route("/healthz", pages.healthy),
            Route("/readyz", pages.ready),
            Route("/metrics", pages.metrics),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    content = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(content, error.status_code, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours: logged in full, told without details."""
    _log.error("unexpected error on %s", request.url.path, exc_info=error)
    content = {
        "error": {"message": "internal error", "type": "internal_error", "param": None, "code": "internal_error"}
    }
    return JSONResponse(content, 500)
