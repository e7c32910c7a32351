"""The other end: a channel, and what its errors mean to a person."""

from __future__ import annotations

import grpc

from monitor.rpc.status import error_info

_START = "start it with `plumbline serve --model M --bundle B --policy P`, or name another with --address"
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)


def open_channel(address: str) -> grpc.Channel:
    """A channel to a monitor, without TLS; connects when it is first used.

    Proxies of the environment are not used: a monitor stands in the caller's own network. A server that
    vanished without a word is noticed within 30 s, also while nothing happens.
    """
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    return grpc.insecure_channel(address, options=options)


def explain(error: grpc.RpcError, address: str) -> str:
    """What a failed call means and what to do, in one sentence."""
    code, details = error.code(), error.details()
    if error_info(error) is not None:
        return f"{details} ({code.name})"
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no Plumbline server at {address} ({details}); {_START}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer from {address} in time; give it longer with --timeout, or look at the server's log"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"what answers at {address} is no Plumbline server, or an older one ({details}); {_START}"
    return f"{code.name} from {address}: {details}"


def may_pass(error: grpc.RpcError) -> bool:
    """Whether the same call may work later: the server is away, restarting, or stumbled."""
    return error.code() in _PASSING
