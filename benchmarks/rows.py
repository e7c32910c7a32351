"""The one format of measured figures: results/NAME.json, a list of rows."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
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


def write_rows(
    name: str,
    rows: Sequence[Row],
    command: str,
    *,
    merge: bool = False,
    machine: str | None = None,
    folder: Path = RESULTS,
) -> None:
    """Print the rows and write them to ``results/NAME.json``, with command, commit and machine.

    Args:
        name: of the file. rows: to write.
        command: that measured them.
        merge: keep the rows of the file that have other names, each with its own command and commit, so that a partial
            run renews what it measured; otherwise the file holds these rows only.
        machine: what they were measured on; by default the number of CPU cores.
        folder: where results are.
    """
    where = {"command": command, "commit": _commit(), "machine": machine or f"{os.cpu_count()} CPU cores"}
    for row in rows:
        print(
            f"{row.name:32} {row.value:10.4g} {row.unit}  (goal {row.goal}; {row.min:.4g} to {row.max:.4g}, n={row.n})"
        )
    path = folder / f"{name}.json"
    new = {row.name: asdict(row) | where for row in rows}
    old = {row["name"]: row for row in json.loads(path.read_text())} if merge and path.exists() else {}
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(list((old | new).values()), indent=2) + "\n")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  # git from the PATH
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "uncommitted"
