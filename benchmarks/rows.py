"""The one format of measured figures: results/NAME.json, a list of rows."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: plain. value: the figure. unit: of it. goal: for example ``"<= 0.02"``, met or not.
        min, max: the spread over ``n`` runs or cases.
    """

    name: str
    value: float
    unit: str
    goal: str
    min: float
    max: float
    n: int


def write_rows(name: str, rows: list[Row], command: str) -> None:
    """Print the rows and write them to ``results/NAME.json``, with command, commit and machine."""
    where = {"command": command, "commit": _commit(), "machine": f"{os.cpu_count()} CPU cores"}
    for row in rows:
        print(
            f"{row.name:32} {row.value:10.4g} {row.unit}  (goal {row.goal}; {row.min:.4g} to {row.max:.4g}, n={row.n})"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(row) | where for row in rows], indent=2) + "\n")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  # git from the PATH
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "uncommitted"
