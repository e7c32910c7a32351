"""The cost table of docs/engine.md, written from results/engine.json.

python -m benchmarks.cost_table           writes the table between the markers of docs/engine.md
python -m benchmarks.cost_table --check   exits with 1 if it is not what the results say
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rows import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "engine.md"
BEGIN, END = "<!-- cost: begin -->", "<!-- cost: end -->"
BATCHES = (1, 16, 64)
MODES = {
    "null": "a second plain engine: what the method itself shows",
    "off": "the plugin is on, requests carry no plan",
    "reading": "8 probes on 3 layers, prepared for no operator",
    "reading_all": "a probe on every layer",
    "steering_1": "8 probes and one steering for all, prepared for `add` and `ablate`",
    "steering_16": "and 16 different steerings",
    "conditional": "and a steering on the condition of a probe",
    "eager_hooks": "eager mode with forward hooks, as plugins do today",
}


def table(rows: Mapping[str, Mapping[str, Any]], model: str) -> Iterator[str]:
    """The lines of one model's table: median over the pairs, their range, and how many there were."""
    yield "| Throughput lost | " + " | ".join(f"Batch {n}" for n in BATCHES) + " |"
    yield "|---|" + "---|" * len(BATCHES)
    for mode, words in MODES.items():
        found = [rows.get(f"{mode}_overhead_b{n}_{model}") for n in BATCHES]
        if any(found):
            yield f"| {words} | " + " | ".join(map(_cell, found)) + " |"


def page(text: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with its tables as the rows have them."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    lines = [BEGIN, "", "75 million parameters:", "", *table(rows, "75m")]
    lines += ["", "400 million parameters:", "", *table(rows, "400m"), "", END]
    return head + "\n".join(lines) + tail


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_table", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is behind")
    options = parser.parse_args()
    rows = {row["name"]: row for row in json.loads((RESULTS / "engine.json").read_text())}
    before = PAGE.read_text()
    after = page(before, rows)
    if options.check:
        sys.exit("docs/engine.md is behind: python -m benchmarks.cost_table" if after != before else 0)
    PAGE.write_text(after)


def _cell(row: Mapping[str, Any] | None) -> str:
    """A median and its range in per cent; a goal that is missed is marked."""
    if row is None:
        return "not measured"
    text = f"{row['value']:+.1%} ({row['min']:+.0%} to {row['max']:+.0%}, n {row['n']})"
    goal = str(row["goal"]).removeprefix("<= ")
    return f"**{text}**" if goal and row["value"] > float(goal) else text


if __name__ == "__main__":
    main()
