"""Verdicts and errors as the JSON and the headers that callers see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from monitor.errors import BlockedError, EngineRefusedError, RequestError, UnscoredError
from monitor.types import Status, TokenScore, Verdict

JSON_TYPE = (b"content-type", b"application/json")
Headers = list[tuple[bytes, bytes]]

_RANK = (Status.PASSED, Status.UNSCORED, Status.TRIPPED)


def encode(value: object) -> bytes:
    """JSON bytes."""
    return msgspec.json.encode(value)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that speaks for all choices: tripped before unscored before passed."""
    return max(verdicts, key=lambda verdict: _RANK.index(verdict.status))


def guard_object(verdict: Verdict, token_scores: Sequence[TokenScore] | None = None) -> dict[str, Any]:
    """The ``guard`` object of an answer."""
    shown: dict[str, Any] = {
        "request_id": verdict.request_id,
        "policy": verdict.policy,
        "revision": verdict.revision,
        "mode": verdict.mode,
        "status": verdict.status,
        "action": verdict.action,
        "enforced": verdict.enforced,
        "detections": verdict.detections,
        "steering": verdict.steering,
        "coverage": {
            "n_prompt": verdict.n_prompt,
            "n_completion": verdict.n_completion,
            "tokens_seen": verdict.tokens_seen,
            "tokens_scored": verdict.tokens_scored,
        },
        "unscored": verdict.unscored,
    }
    if token_scores:
        shown["token_scores"] = token_scores
    return shown


def guarded_body(
    body: dict[str, Any], verdicts: Sequence[Verdict], token_scores: Mapping[int, Sequence[TokenScore]]
) -> dict[str, Any]:
    """A whole answer with its ``guard`` object; with several choices each has one of its own too."""
    overall = worst(verdicts)
    if len(verdicts) == 1:
        return {**body, "guard": guard_object(overall, token_scores.get(0))}
    choices = [
        {**choice, "guard": guard_object(verdicts[choice["index"]], token_scores.get(choice["index"]))}
        for choice in body["choices"]
    ]
    return {**body, "choices": choices, "guard": guard_object(overall)}


def guard_headers(request_id: str, policy: str, status: str) -> Headers:
    """Headers of an answer; all three values are of our own making."""
    return [
        (b"x-guard-request-id", request_id.encode()),
        (b"x-guard-policy", policy.encode()),
        (b"x-guard-status", status.encode()),
    ]


def error_answer(error: RequestError) -> tuple[int, Headers, dict[str, Any] | object]:
    """Status, headers and body of an error, in OpenAI's shape."""
    if isinstance(error, EngineRefusedError):
        return error.status, [], error.body
    blocked = isinstance(error, BlockedError)
    kind = "content_filter" if blocked else ("invalid_request_error" if error.http_status < 500 else error.code)
    body: dict[str, Any] = {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}
    if not isinstance(error, BlockedError | UnscoredError):
        return error.http_status, [], body
    verdict = error.verdict
    headers = guard_headers(verdict.request_id, verdict.policy, verdict.status)
    return error.http_status, headers, {**body, "guard": guard_object(verdict)}
