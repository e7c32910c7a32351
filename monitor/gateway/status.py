"""GET endpoints: models, health, readiness, metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from monitor.errors import RequestError
from monitor.gateway.wire import error_answer
from monitor.record.metrics import CONTENT_TYPE, Metrics
from monitor.session import Receiver
from monitor.upstream import Upstream


class StatusPages:
    """What is up, and what the engine serves."""

    def __init__(self, upstream: Upstream, receiver: Receiver, metrics: Metrics) -> None:
        self._upstream = upstream
        self._receiver = receiver
        self._metrics = metrics

    async def models(self, request: Request) -> Response:  # noqa: ARG002  # the signature of an endpoint
        """GET /v1/models: the engine's answer, unchanged."""
        try:
            status, data = await self._upstream.get("/v1/models")
        except RequestError as error:
            code, _, content = error_answer(error)
            return JSONResponse(content, code)
        return Response(data, status, media_type="application/json")

    async def healthy(self, request: Request) -> Response:  # noqa: ARG002
        """GET /healthz: this process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """GET /readyz: engine and taps; says which is not ready."""
        engine, taps = await self._upstream.healthy(), self._receiver.taps_alive
        state = {"ready": engine and taps, "engine": _word(engine), "taps": _word(taps)}
        return JSONResponse(state, 200 if state["ready"] else 503)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """GET /metrics: for Prometheus."""
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})


def _word(ready: bool) -> str:
    return "ready" if ready else "not ready"
