"""A report as Markdown (GitHub's, with tables): the page's content without its drawings, whose numbers it lists."""

from __future__ import annotations

import html
import re

from probes.report.document import Block, Chart, Heat, Paragraph, Report, Section, Table, Token

# Brackets alone are text; what would make a link of them is what follows.
_ACTIVE = re.compile(r"[\\`*|~$]|\](?=[(\[:])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What opens a heading, a list, a quotation or a rule where a line begins.
_OPENING = re.compile(r"^(#{1,6}|[-+=]+|\d{1,9}[.)])(?=\s|$|[-+=])")


def render_markdown(report: Report) -> str:
    """The Markdown. Text that comes from data is escaped: it opens no link, no tag and no cell."""
    parts = [f"# {escape(report.title)}", *(part for block in report.lead for part in _block(block))]
    for section in report.sections:
        parts += _section(section, level=2)
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """``text`` on one line, as it will be read."""
    line = " ".join(text.split())
    line = re.sub(r"[&<>]", lambda m: _ENTITIES[m[0]], _ACTIVE.sub(lambda m: "\\" + m[0], line))
    # A bare address would become a link.
    line = re.sub(r"(?i)(https?|ftp|mailto|xmpp):|www\.|@", lambda m: m[0][:-1] + f"&#{ord(m[0][-1])};", line)
    return _OPENING.sub(lambda m: m[0][:-1] + "\\" + m[0][-1], line)


def _section(section: Section, level: int) -> list[str]:
    parts = [f"{'#' * level} {escape(section.title)}"]
    for block in section.blocks:
        parts += _block(block)
    for inner in section.sections:
        parts += _section(inner, level + 1)
    return parts


def _block(block: Block) -> list[str]:
    match block:
        case Paragraph(text=text, tone="note"):
            return [f"> {escape(text)}"]
        case Paragraph(text=text, tone="absent"):
            return [f"*{escape(text)}*"]
        case Paragraph(text=text):
            return [escape(text)]
        case Table():
            return _table(block)
        case Chart(data=data):
            return _table(data) if data else []
        case Heat():
            return [f"**{escape(block.caption)}**", _tokens(block), *_table(block.data)]


def _table(table: Table) -> list[str]:
    lines = [_row(table.columns), _row(("---",) * len(table.columns), raw=True), *(_row(row) for row in table.rows)]
    text = "\n".join(lines)
    if table.folded:
        return ["<details>", f"<summary>{html.escape(' '.join(table.caption.split()))}</summary>", text, "</details>"]
    return [f"**{escape(table.caption)}**", text]


def _row(cells: tuple[str, ...], *, raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else escape(cell) for cell in cells) + " |"


def _tokens(block: Heat) -> str:
    """The conversation as one line, bold from the threshold on, with the mark of the page where it trips."""
    return "> " + " ".join(_token(token) for token in block.tokens)


def _token(token: Token) -> str:
    text = escape(token.text) or "␣"
    above = token.level is not None and token.level > 0
    return ("▲ " if token.trips else "") + (f"**{text}**" if above else text)
