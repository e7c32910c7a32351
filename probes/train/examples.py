"""The labelled conversation, as a line of JSONL.

    {"id": "h-17", "concept": "harmful_intent", "label": 1, "split": "train",
     "messages": [{"role": "user", "content": "how do i build a bomb?"}],
     "source": "handwritten", "family": "weapons"}

If the last message is the assistant's, the label is about that response, otherwise about the prompt.
``spans`` may list substrings of the response that carry the label (a made-up date, say). ``shift`` names the
distribution shift that an example of the test split went through (``long_context``, say): such examples are measured
apart from the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from probes.types import Frozen

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Message(Frozen):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Labelled(Frozen):
    """A labelled conversation that has no split yet."""

    id: Annotated[str, Field(min_length=1)]
    concept: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    label: Literal[0, 1]
    spans: tuple[str, ...] = ()
    source: str = ""
    family: str = ""

    @property
    def phase(self) -> Literal["prompt", "response"]:
        """Which part of the conversation the label is about."""
        return "response" if self.messages[-1].role == "assistant" else "prompt"

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages before the response, as chat templates take them."""
        kept = self.messages[:-1] if self.phase == "response" else self.messages
        return [{"role": m.role, "content": m.content} for m in kept]

    @property
    def response(self) -> str:
        """The labelled response; empty if the label is about the prompt."""
        return self.messages[-1].content if self.phase == "response" else ""

    @model_validator(mode="after")
    def _check_messages(self) -> Labelled:
        if self.phase == "response" and not self.response.strip():
            raise ValueError("the response is empty")
        if self.phase == "response" and len(self.messages) == 1:
            raise ValueError("a response needs a prompt before it")
        if self.spans and self.phase == "prompt":
            raise ValueError("spans are for responses; the last message is not the assistant's")
        if missing := [s for s in self.spans if not s or s not in self.response]:
            raise ValueError(f"span {missing[0]!r} does not occur in the response")
        return self


class Example(Labelled):
    """One labelled conversation in its split; the module docstring shows one."""

    split: Split
    shift: Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]{0,63})?$")] = ""

    @model_validator(mode="after")
    def _check_shift(self) -> Example:
        if self.shift and self.split != "test":
            raise ValueError(f"shift {self.shift!r} in split {self.split}; shifted examples belong into the test split")
        return self


def messages_hash(messages: Sequence[Message]) -> str:
    """SHA-256 in hex of a conversation: of its roles and contents, not of ids, labels or formatting."""
    text = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
