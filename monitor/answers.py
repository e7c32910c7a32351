"""The nouns of :mod:`monitor.guard`: what one guarded request yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from monitor.types import TokenScore, Verdict

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    Attributes:
        body: the engine's JSON, cut where a rule demanded it; no guard object in it.
        verdicts: one per choice, by choice index.
        token_scores: by choice index, prompt and response; empty unless asked for.
    """

    body: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    token_scores: dict[int, list[TokenScore]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream, released.

    Attributes:
        payload: the engine's JSON, as the caller would have got it without a guard.
        choice: its choice index; -1 for the usage chunk, which has no choices.
        token_scores: newly known ones of that choice (the prompt's with its first chunk); if asked for.
        verdict: on the chunk that ends its choice.
        request_id: ours. policy: that it runs under.
    """

    payload: dict[str, Any]
    choice: int
    token_scores: tuple[TokenScore, ...] = ()
    verdict: Verdict | None = None
    request_id: str = ""
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last item of a stream: one verdict per choice, by choice index."""

    verdicts: tuple[Verdict, ...]
