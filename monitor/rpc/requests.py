"""The requests of ``GuardService`` to what the guard takes: OpenAI request bodies and guard options."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from monitor.answers import CHAT_PATH, COMPLETIONS_PATH
from monitor.errors import InvalidRequestError
from monitor.policy.options import GuardOptions
from monitor.rpc.convert import steering_from_proto
from monitor.rpc.enums import MODES
from monitor.v1 import guard_pb2 as pb
from monitor.v1 import verdict_pb2


def messages_from_proto(messages: Iterable[pb.Message]) -> list[dict[str, Any]]:
    """Turns of a conversation, as OpenAI's chat messages.

    Raises:
        InvalidRequestError: there are none, or one has no role.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if not turns:
        raise InvalidRequestError('no messages; send for example [{"role": "user", "content": "hello"}]')
    for index, turn in enumerate(turns):
        if not turn["role"]:
            raise InvalidRequestError(f'messages[{index}] has no role; use "system", "user" or "assistant"')
    return turns


def options_from_proto(message: pb.GuardOptions, *, token_scores: bool) -> GuardOptions:
    """Guard options; empty fields mean the policy's own.

    Args:
        message: what the caller sent.
        token_scores: whether the scores of single tokens are wanted.

    Raises:
        InvalidRequestError: a steering without direction or operator, or a mode of a later version.
    """
    mode = MODES.from_proto(message.mode)
    if mode is None and message.mode != verdict_pb2.MODE_UNSPECIFIED:
        raise InvalidRequestError(f"mode {message.mode} is unknown; use MODE_ENFORCE or MODE_OBSERVE")
    return GuardOptions(
        policy=message.policy or None,
        mode=mode,
        probes=tuple(message.probes),
        steering=tuple(steering_from_proto(steering) for steering in message.steering),
        token_scores=token_scores,
    )


def generate_body(request: pb.GenerateRequest) -> tuple[str, dict[str, Any]]:
    """Path and streaming OpenAI body of a generation.

    Raises:
        InvalidRequestError: not exactly one of messages and prompt, or a sampling field out of range.
    """
    if request.HasField("prompt") == bool(request.messages):
        raise InvalidRequestError("send exactly one of messages (a conversation) and prompt (a bare text)")
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    if request.model:
        body["model"] = request.model
    body.update(_sampling(request.sampling))
    if request.HasField("prompt"):
        return COMPLETIONS_PATH, {"prompt": request.prompt, **body}
    return CHAT_PATH, {"messages": messages_from_proto(request.messages), **body}


def _sampling(message: pb.SamplingOptions) -> dict[str, Any]:
    """The sampling fields that were set, under OpenAI's names (which are ours)."""
    fields: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    for name in ("temperature", "top_p"):
        if not math.isfinite(fields.get(name, 0.0)):
            raise InvalidRequestError(f"sampling.{name} must be a finite number, got {fields[name]}")
    for name in ("max_tokens", "n"):
        if fields.get(name, 1) < 1:
            raise InvalidRequestError(f"sampling.{name} must be at least 1, got {fields[name]}")
    if "stop" in fields:
        fields["stop"] = list(fields["stop"])
    return fields
