"""Which positions must be scored before something is released, and what a released answer looks like when cut.

Response token i (0-based) has position ``n_prompt + i``; it is scored in the step after it was sampled, so
the last token of a response may have no score at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monitor.policy.plan import STOP_PREFIX, GatePlan

CUT_REASON = "content_filter"


def stopping_rule(choice: dict[str, Any], plan: GatePlan) -> str | None:
    """The enforced rule for which the engine ended this choice, from its ``stop_reason``; None otherwise.

    A caller may choose a stop string that looks like one; only rules of the plan count.
    """
    reason = choice.get("stop_reason")
    if not isinstance(reason, str) or not reason.startswith(STOP_PREFIX) or not plan.enforce:
        return None
    rule = reason.removeprefix(STOP_PREFIX)
    return rule if any(d.rule == rule and d.action.ends for d in plan.detectors) else None


def needed_positions(
    n_prompt: int,
    n_completion: int,
    choice: dict[str, Any],
    plan: GatePlan,
    *,
    stop_text: bool,
    stop_tokens: frozenset[int] = frozenset(),
) -> int:
    """How many leading positions must be scored before a chunk or an answer may go out.

    Args:
        n_prompt: prompt tokens.
        n_completion: response tokens up to and with this chunk.
        choice: of the engine's answer; its ``finish_reason`` and ``stop_reason``.
        plan: ``hold`` wants every released token scored, otherwise the newest one may be unscored.
        stop_text: the text of stop tokens is released too.
        stop_tokens: the caller's own: the stop reason tells which was sampled, so it has to be scored like text.
    """
    everything = n_prompt + n_completion
    one_less = max(n_prompt, everything - 1)
    if stopping_rule(choice, plan) is not None:
        return everything
    if not plan.hold:
        return one_less
    by_token = choice.get("finish_reason") in ("stop", "tool_calls") and not isinstance(choice.get("stop_reason"), str)
    told = stop_text or choice.get("stop_reason") in stop_tokens
    return one_less if by_token and not told else everything


def cut_chunk(payload: dict[str, Any], choice: dict[str, Any], stop_reason: str | None) -> dict[str, Any]:
    """The chunk that ends a choice: no text, ``finish_reason: content_filter``."""
    ended: dict[str, Any] = {"index": choice.get("index", 0)}
    if "delta" in choice:
        ended["delta"] = {}
    else:
        ended["text"] = ""
    ended |= {"logprobs": None, "finish_reason": CUT_REASON, "stop_reason": stop_reason}
    return {**payload, "choices": [ended]}


def replaced_chunks(payload: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    """A chunk that ends a cut choice, in parts: what it still releases, the text in place of the rest, the end."""
    (choice,) = payload["choices"]
    added: dict[str, Any] = {"index": choice.get("index", 0)}
    if "delta" in choice:
        released = any(choice["delta"].values())
        added["delta"] = {"content": text}
    else:
        released = bool(choice["text"])
        added["text"] = text
    if released:
        yield {**payload, "choices": [{**choice, "finish_reason": None, "stop_reason": None}]}
    yield {**payload, "choices": [{**added, "logprobs": None, "finish_reason": None}]}
    yield cut_chunk(payload, choice, choice.get("stop_reason"))


def with_text(choice: dict[str, Any], text: str) -> dict[str, Any]:
    """A choice of a whole answer with a text after what is left of its own."""
    if not isinstance(message := choice.get("message"), dict):
        return {**choice, "text": (choice.get("text") or "") + text}
    return {**choice, "message": {**message, "content": (message.get("content") or "") + text}}


def cut_choice(choice: dict[str, Any], kept: str) -> dict[str, Any]:
    """A choice of a whole answer with all but ``kept`` of its text taken out."""
    ended = {**choice, "finish_reason": CUT_REASON}
    for name in ("logprobs", "token_ids", "routed_experts"):
        if name in ended:
            ended[name] = None
    if isinstance(choice.get("message"), dict):
        message = choice["message"]
        blank = {name: None for name in message if name not in ("role", "content", "tool_calls")}
        ended["message"] = {"role": message.get("role", "assistant"), **blank, "content": kept}
        if "tool_calls" in message:
            ended["message"]["tool_calls"] = []
    else:
        ended["text"] = kept
    return ended


def plain_text(choice: dict[str, Any]) -> str | None:
    """The choice's text if it has nothing but text; None with tool calls or reasoning."""
    message = choice.get("message")
    if not isinstance(message, dict):
        text = choice.get("text")
        return text if isinstance(text, str) else None
    others = ("tool_calls", "function_call", "reasoning", "reasoning_content", "audio", "refusal")
    if any(message.get(name) for name in others):
        return None
    content = message.get("content")
    return content if isinstance(content, str) else None


def kept_prefix(text: str, decoded: str) -> str:
    """The beginning of ``text`` that the decoded tokens account for; nothing where that is not certain.

    Tokens decoded alone may differ from the same tokens behind a prompt: in leading white space, and in a
    character of several tokens whose end is missing.
    """
    whole = decoded.rstrip("\N{REPLACEMENT CHARACTER}")
    leading = text[: len(text) - len(text.lstrip())]
    for candidate in (whole, whole.lstrip(), leading + whole.lstrip()):
        if text.startswith(candidate):
            return candidate
    return ""
