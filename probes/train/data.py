"""Labelled conversations: JSONL in, validated examples out.

:mod:`probes.train.examples` shows a line. A folder may hold ``splits.json``, the lock that ``plumbline data split``
writes: its examples must then be in the splits that were frozen.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from probes.errors import DataError
from probes.train.examples import SPLITS, Example, Labelled, Message, Split
from probes.train.lock import LOCK_FILE, check_lock, read_lock

__all__ = [
    "SPLITS",
    "Dataset",
    "Example",
    "Labelled",
    "Message",
    "Split",
    "check_concept",
    "read_dataset",
    "read_unsplit",
]

_Line = TypeVar("_Line", bound=Labelled)


@dataclass(frozen=True)
class Dataset:
    """All examples of a folder, by concept, and a hash of what was read."""

    examples: Mapping[str, tuple[Example, ...]]
    digest: str

    def split(self, concept: str, split: Split) -> list[Example]:
        """The unshifted examples of one concept in one split, in file order."""
        return [e for e in self.examples[concept] if e.split == split and not e.shift]

    def shifted(self, concept: str) -> dict[str, list[Example]]:
        """The shifted test examples of one concept, by name of the shift, in file order."""
        names = sorted({e.shift for e in self.examples[concept]} - {""})
        return {name: [e for e in self.examples[concept] if e.shift == name] for name in names}

    def counts(self) -> dict[str, dict[str, int]]:
        """Examples by concept and ``split/label`` (``shift/label`` where they are shifted), for people."""
        return {
            concept: dict(sorted(Counter(f"{e.shift or e.split}/{e.label}" for e in examples).items()))
            for concept, examples in self.examples.items()
        }


def read_dataset(folder: Path) -> Dataset:
    """Read every ``*.jsonl`` of a folder.

    Raises:
        DataError: unreadable or invalid lines (with file, line and field), ids used twice, the same
            conversation in two splits (be it for two concepts), a concept about prompts and responses both, a
            split without unshifted examples of both labels, or examples that are not as ``splits.json`` froze them.
    """
    places: dict[str, str] = {}
    by_concept: dict[str, list[Example]] = {}
    digest = hashlib.sha256()
    for place, example in _read_folder(folder, Example):
        if example.id in places:
            raise DataError(f"{place}: id {example.id!r} was used at {places[example.id]} already.")
        places[example.id] = place
        by_concept.setdefault(example.concept, []).append(example)
        digest.update(example.model_dump_json().encode() + b"\n")
    for concept, examples in by_concept.items():
        check_concept(concept, examples, places)
    _check_across([e for examples in by_concept.values() for e in examples], places)
    if (path := folder / LOCK_FILE).exists():
        check_lock(read_lock(path), (e for examples in by_concept.values() for e in examples), path)
    return Dataset(examples={c: tuple(es) for c, es in sorted(by_concept.items())}, digest=digest.hexdigest())


def read_unsplit(folder: Path) -> Iterator[Labelled]:
    """The conversations of a folder; splits that its lines have are ignored.

    Raises:
        DataError: no files, an invalid line, or a shifted example, which is made after the split.
    """
    for place, line in _read_folder(folder, _Unsplit):
        if line.shift:
            raise DataError(
                f"{place}: shift {line.shift!r}; shifted examples go into the folder that is split already."
            )
        yield Labelled(**{name: getattr(line, name) for name in Labelled.model_fields})


class _Unsplit(Labelled):
    split: Split | None = None
    shift: str = ""


def _read_folder(folder: Path, kind: type[_Line]) -> Iterator[tuple[str, _Line]]:
    """``(file:line, example)`` for every line of every ``*.jsonl`` that is not blank, checked one by one.

    Raises:
        DataError: no such files, or a line that is not a valid ``kind``.
    """
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} has no *.jsonl; wanted a folder with one labelled conversation per line.")
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield (place := f"{path}:{number}"), _parse(line, kind, place)


def _parse(line: bytes, kind: type[_Line], place: str) -> _Line:
    try:
        return kind.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "example"
        if field == "split" and first["type"] == "missing":
            raise DataError(f"{place}: split is missing. `plumbline data split` assigns splits by family.") from error
        raise DataError(f"{place}: {field}: {first['msg']} (came: {_short(first['input'])})") from error
    except ValueError as error:
        raise DataError(f"{place}: not a JSON object: {error}") from error


def check_concept(concept: str, examples: Sequence[Example], places: Mapping[str, str]) -> None:
    """Check what only all examples of a concept together can break; ``places`` says by id where each one stands.

    Raises:
        DataError: as for :func:`read_dataset`.
    """
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
        labels = {e.label for e in examples if e.split == split and not e.shift}
        if labels != {0, 1}:
            raise DataError(
                f"{concept}: split {split} has labels {sorted(labels)}; wanted examples of both 0 and 1 in each of "
                f"{', '.join(SPLITS)}."
            )


def _check_across(examples: Sequence[Example], places: Mapping[str, str]) -> None:
    """Concepts learn from each other: a direction is taken out of other probes, an autoencoder reads all of them."""
    seen: dict[tuple[Message, ...], Example] = {}
    for example in examples:
        twin = seen.setdefault(example.messages, example)
        if twin.split != example.split:
            raise DataError(
                f"{places[example.id]}: the same conversation is in {twin.split} for {twin.concept} "
                f"({places[twin.id]}) and in {example.split} for {example.concept}. Keep it in one split."
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
