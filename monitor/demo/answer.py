"""One answer of the gateway, read for the demonstration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status. body: decoded JSON.
    """

    status: int
    body: dict[str, Any]

    @property
    def guard(self) -> dict[str, Any]:
        """The guard object; empty if there is none."""
        found: dict[str, Any] = self.body.get("guard") or {}
        return found

    @property
    def code(self) -> str | None:
        """The error's code, if it is an error."""
        error = self.body.get("error") or {}
        code: str | None = error.get("code")
        return code

    @property
    def choice(self) -> dict[str, Any]:
        """The first choice; empty if there is none."""
        choices = self.body.get("choices") or [{}]
        first: dict[str, Any] = choices[0]
        return first

    @property
    def text(self) -> str:
        """The response's text."""
        return ((self.choice.get("message") or {}).get("content") or "").strip()

    @property
    def finish_reason(self) -> str | None:
        """As the API says."""
        reason: str | None = self.choice.get("finish_reason")
        return reason

    @property
    def tokens(self) -> list[str]:
        """The response's tokens."""
        logprobs = self.choice.get("logprobs") or {}
        return [entry["token"].strip() for entry in logprobs.get("content") or []]

    def detection(self, rule: str) -> dict[str, Any]:
        """One rule's detection; empty if the policy has no such rule."""
        return next((d for d in self.guard.get("detections", []) if d["rule"] == rule), {})

    def tripped(self, rule: str) -> bool:
        """Whether the rule tripped."""
        return bool(self.detection(rule).get("tripped"))

    def trip_token(self, rule: str) -> str | None:
        """The response token at which the rule tripped, or None."""
        position = self.detection(rule).get("position")
        index = None if position is None else position - self.n_prompt
        return self.tokens[index] if index is not None and 0 <= index < len(self.tokens) else None

    @property
    def n_prompt(self) -> int:
        """Prompt tokens."""
        count: int = (self.guard.get("coverage") or {}).get("n_prompt", 0)
        return count

    def scores(self, probe: str) -> list[float | None]:
        """The probe's score of each response token; None where unscored."""
        known = {s["position"]: s["scores"].get(probe) for s in self.guard.get("token_scores", [])}
        return [known.get(self.n_prompt + i) for i in range(len(self.tokens))]


async def ask(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    """Send one request and read the answer, whatever its status."""
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        return Answer(response.status, json.loads(await response.text()))
