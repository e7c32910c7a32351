"""The difference of two bundles as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probes.bundle import BundleDiff
from probes.bundle.diff import Change
from probes.bundle.flatten import Leaf

_COLOURS = {"added": "green", "removed": "red", "changed": "yellow"}
_LONGEST = 24


def print_diff(console: Console, diff: BundleDiff) -> None:
    """Print every field that differs; lists and long texts shortened (``--json`` has them in full)."""
    if diff.equal:
        console.print("The bundles hold the same.")
        return
    if diff.changes:
        console.print(_table("bundle", diff.changes))
    for item in diff.items:
        title = f"{item.kind} {escape(item.name)} [{_COLOURS[item.status]}]{item.status}[/]"
        if item.cosine is not None:
            title += f", cosine of the vectors {item.cosine:.6f}"
        console.print(_table(title, item.changes) if item.changes else title, highlight=False)


def _table(title: str, changes: Sequence[Change]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    table.add_column("field", overflow="fold")
    table.add_column("before", overflow="fold", max_width=_LONGEST)
    table.add_column("after", overflow="fold", max_width=_LONGEST)
    for change in changes:
        table.add_row(escape(change.field), escape(_shown(change.before)), escape(_shown(change.after)))
    return table


def _shown(value: Leaf) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"{len(value)} values"
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
