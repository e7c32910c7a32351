"""A layout: the columns of a public data set, and what its rows say.

A converter is a pure function from a row to :class:`Draft` objects: usually one, two for a contrastive pair, none for a
row without a usable label. It reads cells through the functions below, which name the column when a cell is not what
was promised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from probes.errors import DataError
from probes.train.sources.records import Row

Turn = tuple[str, str]  # role, content
Label = Literal[0, 1]


@dataclass(frozen=True)
class Draft:
    """What a row says about one conversation; fields as in :class:`probes.train.examples.Labelled`.

    An empty ``family`` is derived from the words of the prompt.
    """

    concept: str
    label: Label
    messages: tuple[Turn, ...]
    spans: tuple[str, ...] = ()
    family: str = ""


Convert = Callable[[Row], Iterator[Draft]]
ConvertAs = Callable[[Row, Label], Iterator[Draft]]


@dataclass(frozen=True)
class Layout:
    """One line of the table of layouts.

    Attributes:
        name: as given to ``--layout``; also the source of its examples.
        title: of the data set, for people.
        columns: that its files must have, in lower case; more are ignored.
        convert: row to drafts. labelled_by_caller: instead of ``convert`` where the rows have no label, because the
            set keeps harmful and harmless prompts in files of one layout: the caller says which it is.
        concepts: that it labels. rule: what label 1 means.
        licence: a note; the set's own page decides.
    """

    name: str
    title: str
    columns: frozenset[str]
    concepts: tuple[str, ...]
    rule: str
    licence: str
    convert: Convert | None = None
    labelled_by_caller: ConvertAs | None = None


def user(text: str) -> tuple[Turn, ...]:
    """A conversation of one user turn."""
    return (("user", text),)


def reply(prompt: str, response: str, system: str = "") -> tuple[Turn, ...]:
    """A user turn and the response to it, after a system prompt if there is one."""
    turns = (("user", prompt), ("assistant", response))
    return (("system", system), *turns) if system else turns


def text(row: Row, column: str) -> str:
    """A cell that must hold text.

    Raises:
        DataError: empty, or no string.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{column}: came {_short(value)}; wanted text.")
    return value.strip()


def optional(row: Row, column: str) -> str:
    """A cell that may be missing, null or empty: then ``""``.

    Raises:
        DataError: neither text nor null.
    """
    value = row.get(column)
    return "" if value is None or (isinstance(value, str) and not value.strip()) else text(row, column)


def choice(row: Row, column: str, labels: Mapping[str, Label]) -> Label:
    """A cell that names its label, whatever its case: ``safe``, ``1``, ``True``, ...

    Raises:
        DataError: any other value.
    """
    value = row.get(column)
    label = labels.get(_plain(value))
    if label is None:
        raise DataError(f"{column}: came {_short(value)}; wanted one of {', '.join(labels)}.")
    return label


def texts(row: Row, column: str) -> list[str]:
    """A cell that holds a list of texts: a list, a JSON list, or texts separated by semicolons.

    Raises:
        DataError: none of them, such as a list that another program printed.
    """
    value = row.get(column)
    parts = _parsed(value) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{column}: came {_short(value)}; wanted a list of texts.")
    return [part.strip() for part in parts if part.strip()]


def objects(row: Row, column: str) -> list[Mapping[str, object]]:
    """A cell that holds a list of objects.

    Raises:
        DataError: anything else.
    """
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise DataError(f"{column}: came {_short(value)}; wanted a list of objects.")
    return value


def _parsed(value: str) -> object:
    if not value.lstrip().startswith("["):
        return value.split(";")
    try:
        return json.loads(value)
    except ValueError:
        return None


def _plain(value: object) -> str:
    """``1.0`` and ``1`` are one label, as are ``True`` and ``true``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"


YES_NO: Mapping[str, Label] = {"1": 1, "0": 0, "true": 1, "false": 0, "yes": 1, "no": 0}
