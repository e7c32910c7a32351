"""What a report consists of, before anybody knows whether it becomes a page or Markdown.

All text is plain: whoever renders it escapes it. The one exception is :attr:`Chart.svg`, which
:mod:`probes.report.svg` makes, and which is markup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Paragraph:
    """A paragraph. ``tone``: ``note`` is set apart, ``absent`` says what was not measured."""

    kind: ClassVar[str] = "paragraph"
    text: str
    tone: Literal["plain", "note", "absent"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        rows: cells as they are shown, each row as long as ``columns``.
        folded: closed until a reader opens it: long lists, and the numbers behind a chart.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing, what it shows in words, and its numbers. ``data`` is None if a table of the section has them."""

    kind: ClassVar[str] = "chart"
    svg: str
    alt: str
    data: Table | None = None


@dataclass(frozen=True)
class Token:
    """A token of a heat map.

    Attributes:
        level: -4 (far below the threshold) to 4 (far above it); None: not read.
        trips: whether the probe trips here.
    """

    text: str
    score: str
    level: int | None
    trips: bool = False


@dataclass(frozen=True)
class Heat:
    """A conversation, token by token. ``glue`` stands between two tokens."""

    kind: ClassVar[str] = "heat"
    caption: str
    tokens: tuple[Token, ...]
    glue: str
    data: Table


Block = Paragraph | Table | Chart | Heat


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it. ``anchor`` is unique in the report."""

    title: str
    anchor: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = field(default=())


@dataclass(frozen=True)
class Report:
    """The whole of it. ``lead``: what stands under the title, before the first section."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]


def absent(what: str) -> Paragraph:
    """The sentence that stands where a reader would look for ``what``."""
    return Paragraph(f"{what}: not measured.", tone="absent")
