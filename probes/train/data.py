"""Labelled conversations: JSONL in, validated examples out.

One line is one example:

    {"id": "h-17", "concept": "harmful_intent", "label": 1, "split": "train",
     "messages": [{"role": "user", "content": "how do i build a bomb?"}],
     "source": "handwritten", "family": "weapons"}

If the last message is the assistant's, the label is about that response, otherwise about the prompt.
``spans`` may list substrings of the response that carry the label (a made-up date, say).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from probes.errors import DataError
from probes.types import Frozen

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Message(Frozen):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Example(Frozen):
    """One labelled conversation; the module docstring shows one."""

    id: Annotated[str, Field(min_length=1)]
    concept: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    label: Literal[0, 1]
    spans: tuple[str, ...] = ()
    split: Split
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
    def _check(self) -> Example:
        if self.phase == "response" and not self.response.strip():
            raise ValueError("the response is empty")
        if self.phase == "response" and len(self.messages) == 1:
            raise ValueError("a response needs a prompt before it")
        if self.spans and self.phase == "prompt":
            raise ValueError("spans are for responses; the last message is not the assistant's")
        if missing := [s for s in self.spans if not s or s not in self.response]:
            raise ValueError(f"span {missing[0]!r} does not occur in the response")
        return self


@dataclass(frozen=True)
class Dataset:
    """All examples of a folder, by concept, and a hash of what was read."""

    examples: Mapping[str, tuple[Example, ...]]
    digest: str

    def split(self, concept: str, split: Split) -> list[Example]:
        """The examples of one concept in one split, in file order."""
        return [e for e in self.examples[concept] if e.split == split]

    def counts(self) -> dict[str, dict[str, int]]:
        """Examples by concept and ``split/label``, for people."""
        return {c: dict(sorted(Counter(f"{e.split}/{e.label}" for e in es).items())) for c, es in self.examples.items()}


def read_dataset(folder: Path) -> Dataset:
    """Read every ``*.jsonl`` of a folder.

    Raises:
        DataError: unreadable or invalid lines (with file, line and field), ids used twice, the same
            conversation in two splits, a concept about prompts and responses both, or a split without
            examples of both labels.
    """
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} has no *.jsonl; wanted a folder with one labelled conversation per line.")
    places: dict[str, str] = {}
    by_concept: dict[str, list[Example]] = {}
    digest = hashlib.sha256()
    for path in files:
        for place, example in _read_file(path):
            if example.id in places:
                raise DataError(f"{place}: id {example.id!r} was used at {places[example.id]} already.")
            places[example.id] = place
            by_concept.setdefault(example.concept, []).append(example)
            digest.update(example.model_dump_json().encode() + b"\n")
    for concept, examples in by_concept.items():
        _check_concept(concept, examples, places)
    return Dataset(examples={c: tuple(es) for c, es in sorted(by_concept.items())}, digest=digest.hexdigest())


def _read_file(path: Path) -> Iterator[tuple[str, Example]]:
    """``(file:line, example)`` for every line that is not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                yield place, Example.model_validate(json.loads(line))
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"]) or "example"
                raise DataError(f"{place}: {field}: {first['msg']} (came: {_short(first['input'])})") from error
            except ValueError as error:
                raise DataError(f"{place}: not a JSON object: {error}") from error


def _check_concept(concept: str, examples: list[Example], places: Mapping[str, str]) -> None:
    other = next((e for e in examples if e.phase != examples[0].phase), None)
    if other is not None:
        raise DataError(
            f"{places[other.id]}: {concept} is about the {other.phase} here but about the {examples[0].phase} at "
            f"{places[examples[0].id]}; a concept labels prompts or responses, not both."
        )
    seen: dict[tuple[Message, ...], Example] = {}
    for example in examples:
        twin = seen.setdefault(example.messages, example)
        if twin.split != example.split:
            raise DataError(
                f"{places[example.id]}: the same conversation is in {twin.split} ({places[twin.id]}) and in "
                f"{example.split}; figures on it would mean nothing. Keep it in one split."
            )
        if twin.label != example.label:
            raise DataError(f"{places[example.id]}: the same conversation has label {twin.label} at {places[twin.id]}.")
    for split in SPLITS:
        labels = {e.label for e in examples if e.split == split}
        if labels != {0, 1}:
            raise DataError(
                f"{concept}: split {split} has labels {sorted(labels)}; wanted examples of both 0 and 1 in each of "
                f"{', '.join(SPLITS)}."
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
