"""The request's body on its way to the engine, and the answer's shape on its way back.

Only what the guard needs is touched: the signed plan, the cache salt, continuous usage in streams, and token
ids where a cut may have to be made. What the caller did not ask for is taken out of the answer again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitor.answers import COMPLETIONS_PATH
from monitor.errors import InvalidRequestError
from monitor.policy.plan import STOP_PREFIX, XARGS_KEY, GatePlan, sign_plan

_MAX_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller asked for, as far as it matters here.

    Attributes:
        n: choices. stream: whether as a stream.
        usage: a last chunk with usage. continuous: usage in every chunk. token_ids: ids in the answer.
        stop_text: the text of stop strings and stop tokens belongs to the answer.
        stop_tokens: the caller's own stop tokens; which of them was sampled is told by the stop reason.
        echo: the answer begins with the prompt.
    """

    n: int
    stream: bool
    usage: bool
    continuous: bool
    token_ids: bool
    stop_text: bool
    stop_tokens: frozenset[int]
    echo: bool


def read_wishes(path: str, body: Mapping[str, Any]) -> Wishes:
    """Check the fields that decide how the answer is followed; the engine checks all others.

    Raises:
        InvalidRequestError: naming the field, what came and what is wanted.
    """
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InvalidRequestError(f"stream_options: got {_shown(options)}, wanted an object")
    if body.get("use_beam_search"):
        raise InvalidRequestError("use_beam_search: beams that are given up cannot be followed; use n with sampling")
    if not isinstance(body.get("vllm_xargs") or {}, dict):
        raise InvalidRequestError(f"vllm_xargs: got {_shown(body['vllm_xargs'])}, wanted an object")
    if path == COMPLETIONS_PATH:
        _check_prompt(body)
    _check_reading(body)
    usage = _flag(options, "include_usage", "stream_options.")
    return Wishes(
        n=_choices(body),
        stream=_flag(body, "stream"),
        usage=usage,
        continuous=usage and _flag(options, "continuous_usage_stats", "stream_options."),
        token_ids=_flag(body, "return_token_ids"),
        stop_text=_flag(body, "include_stop_str_in_output"),
        stop_tokens=_stop_tokens(body),
        echo=_flag(body, "echo"),
    )


def engine_body(
    body: Mapping[str, Any], wishes: Wishes, plan: GatePlan, key: bytes, *, need_token_ids: bool
) -> dict[str, Any]:
    """The body that the engine gets: the caller's, with our fields in place of anything sent under their names.

    A caller's ``cache_salt`` still keeps callers apart; it is set behind ours, so that it can never imitate one.
    """
    sent = {name: value for name, value in body.items() if name not in ("guard", "cache_salt")}
    sent["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), XARGS_KEY: sign_plan(plan, key)}
    salt, theirs = plan.cache_salt(), body.get("cache_salt")
    if isinstance(theirs, str) and theirs:
        salt = f"{salt or 'plumbline'}:{theirs}"
    if salt is not None:
        sent["cache_salt"] = salt
    if wishes.stream:
        asked = body.get("stream_options") or {}
        sent["stream_options"] = {**asked, "include_usage": True, "continuous_usage_stats": True}
    if need_token_ids:
        sent["return_token_ids"] = True
    return sent


def without_token_ids(body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer as it looks without ``return_token_ids``: vLLM sends the fields as null."""
    hidden = {name: None for name in ("prompt_token_ids",) if name in body}
    choices = [
        {**choice, **{name: None for name in ("prompt_token_ids", "token_ids") if name in choice}}
        for choice in body.get("choices", ())
    ]
    return {**body, **hidden, "choices": choices}


def _check_reading(body: Mapping[str, Any]) -> None:
    """Refuse what would let a caller choose the token at which the prompt is judged, or imitate our stop reasons."""
    if body.get("add_generation_prompt") is False or body.get("continue_final_message"):
        raise InvalidRequestError(
            "add_generation_prompt, continue_final_message: the prompt is judged at its last token, which the chat "
            "template has to write; leave both fields out"
        )
    if body.get("truncate_prompt_tokens") is not None:
        raise InvalidRequestError("truncate_prompt_tokens: the whole prompt has to be read; shorten it yourself")
    stops = body.get("stop")
    for stop in stops if isinstance(stops, list) else [stops]:
        if isinstance(stop, str) and stop.startswith(STOP_PREFIX):
            raise InvalidRequestError(f"stop: {_shown(stop)} begins with {STOP_PREFIX!r}, which is ours")


def _stop_tokens(body: Mapping[str, Any]) -> frozenset[int]:
    ids = body.get("stop_token_ids") or []
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise InvalidRequestError(f"stop_token_ids: got {_shown(ids)}, wanted a list of token ids")
    return frozenset(ids)


def _choices(body: Mapping[str, Any]) -> int:
    n = body.get("n")
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MAX_CHOICES:
        raise InvalidRequestError(f"n: got {_shown(n)}, wanted a whole number from 1 to {_MAX_CHOICES}")
    return n


def _flag(body: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{prefix}{name}: got {_shown(value)}, wanted true or false")
    return bool(value)


def _check_prompt(body: Mapping[str, Any]) -> None:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and not all(isinstance(part, int) for part in prompt):
        raise InvalidRequestError(f"prompt: got {len(prompt)} prompts; send one prompt per request")
    if body.get("prompt_embeds") is not None:
        raise InvalidRequestError("prompt_embeds: a prompt without tokens cannot be followed; send text or token ids")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
