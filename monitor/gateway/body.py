"""Reading a request from outside: size, encoding, JSON, and the guard options in it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive

from monitor.errors import InvalidRequestError, TooLargeError
from monitor.policy.options import GuardOptions

POLICY_HEADER = "x-guard-policy"
_POLICY_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class ClientGoneError(Exception):
    """The caller has closed the connection."""


async def read_json(headers: Headers, receive: Receive, limit: int) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        TooLargeError: more than ``limit`` bytes.
        InvalidRequestError: compressed, not JSON, nested too deeply, or not an object.
        ClientGoneError: the connection closed before the end.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequestError("content-encoding: compressed bodies are not accepted; send plain JSON")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    data = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data += message.get("body", b"")
        more = message.get("more_body", False)
        if len(data) > limit:
            raise _too_large(limit)
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the body is a JSON {type(value).__name__}, wanted an object")
    return value


def read_options(headers: Headers, body: dict[str, Any]) -> GuardOptions:
    """The guard options, taken out of ``body``; the policy may come in a header instead.

    Raises:
        InvalidRequestError: naming the field.
    """
    options = GuardOptions.parse(body.pop("guard", None))
    named = headers.getlist(POLICY_HEADER)
    if not named:
        return options
    if len(named) > 1 or not _POLICY_NAME.fullmatch(named[0]):
        raise InvalidRequestError(f"{POLICY_HEADER}: wanted one policy name")
    if options.policy not in (None, named[0]):
        raise InvalidRequestError(f"guard.policy: got {options.policy!r}, but {POLICY_HEADER} says {named[0]!r}")
    return msgspec.structs.replace(options, policy=named[0])


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body has more than {limit} bytes (PLUMBLINE_MAX_BODY)")
