"""Exceptions to gRPC statuses, and what such a status says on the other end.

Every status made here carries a ``google.rpc.ErrorInfo``: domain ``plumbline``, ``reason`` the error's
code in upper case (the form that ErrorInfo asks for), ``metadata["code"]`` the code as HTTP clients see it.
A request that could not be scored carries its ``monitor.v1.Verdict`` as well.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types
from grpc import aio
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from monitor.errors import EngineRefusedError, RequestError, UnscoredError
from monitor.rpc.convert import verdict_to_proto

DOMAIN = "plumbline"

_log = logging.getLogger(__name__)


_ENGINE_REFUSALS: dict[int, grpc.StatusCode] = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def status_code(error: RequestError) -> grpc.StatusCode:
    """The gRPC status of a request error: the declared one, or what an engine's refusal amounts to.

    Raises:
        KeyError: the error's class declares a name that gRPC does not have.
    """
    declared = grpc.StatusCode[error.grpc_status]
    if isinstance(error, EngineRefusedError):
        return _ENGINE_REFUSALS.get(error.status, declared)
    return declared


@asynccontextmanager
async def answering(context: aio.ServicerContext[Any, Any], method: str) -> AsyncIterator[None]:
    """Run a handler's body; an exception ends the call with its status.

    A request error is told to the caller. Anything else is a defect: it is logged under a random id, and
    the caller gets INTERNAL and that id, never the exception's text. Cancellation (by the client, by its
    deadline, or by the server's shutdown) passes through.

    Args:
        context: the call.
        method: its name, for the log.

    Raises:
        grpc.aio.AbortError: the call has been ended with a status.
    """
    try:
        yield
    except (asyncio.CancelledError, aio.AbortError, aio.InternalError):
        raise  # the last: the client is gone, and gRPC knows
    except RequestError as error:
        details = [verdict_to_proto(error.verdict)] if isinstance(error, UnscoredError) else []
        await abort(context, status_code(error), error.code, str(error), details=details)
    except Exception:  # noqa: BLE001  # the last resort: logged here, told to the caller as INTERNAL
        error_id = secrets.token_hex(6)
        _log.exception("error %s in %s", error_id, method)
        text = f"internal error {error_id}; the server's log has the details under this id"
        await abort(context, grpc.StatusCode.INTERNAL, RequestError.code, text, error_id=error_id)


async def abort(
    context: aio.ServicerContext[Any, Any],
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    details: Iterable[Message] = (),
    **metadata: str,
) -> NoReturn:
    """End a call with a status, its ErrorInfo, and further details.

    Raises:
        grpc.aio.AbortError: always; gRPC ends handlers this way.
    """
    info = error_details_pb2.ErrorInfo(reason=reason.upper(), domain=DOMAIN, metadata={"code": reason, **metadata})
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in (info, *details):
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))


async def refuse(context: aio.ServicerContext[Any, Any]) -> NoReturn:
    """End a call because the server is going.

    Raises:
        grpc.aio.AbortError: always.
    """
    text = "the server is shutting down; connect again"
    await abort(context, grpc.StatusCode.UNAVAILABLE, "shutting_down", text)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo that a status carries, on the client's side; None if it carries none."""
    status = rpc_status.from_call(error)
    for detail in () if status is None else status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None
