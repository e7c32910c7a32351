"""The organism's gates over training seeds, and its emergence. Writes results/organism*.json.

    python -m benchmarks.organism_seeds --runs runs/organism

``runs/organism/seed1`` and ``seed2`` hold ``weights`` and ``emergence.json`` of ``python -m probes.organism train``,
``runs/organism/twin`` those of the same with ``--twin``; seed 0 is what ships. The summary has the worst seed's figure
for each gate. Weights of other seeds are not kept, only these figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.rows import RESULTS, Row, write_rows
from probes.organism.cli import MISSED

SEEDS = (0, 1, 2)


def main() -> None:
    """Evaluate every seed, then write the worst figure of each gate and the emergence of each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/organism"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    figures = [evaluate(seed, arguments.runs, arguments.threads) for seed in SEEDS]
    rows = [worst([f[name] for f in figures if name in f]) for name, figure in figures[0].items() if figure["goal"]]
    write_rows("organism_seeds", rows, "python -m benchmarks.organism_seeds")
    emergence = {
        name: json.loads((arguments.runs / name / "emergence.json").read_text()) for name in ("seed1", "seed2", "twin")
    }
    (RESULTS / "organism_emergence.json").write_text(json.dumps(emergence, indent=1) + "\n")


def evaluate(seed: int, runs: Path, threads: int) -> dict[str, dict[str, object]]:
    """Figures of one seed by name."""
    path = RESULTS / ("organism.json" if seed == 0 else f"organism_seed{seed}.json")
    command = [sys.executable, "-m", "probes.organism", "evaluate", "--seed", str(seed), "--json", str(path)]
    command += ["--threads", str(threads)]
    command += ["--twin", str(runs / "twin/weights")] if seed == 0 else ["--weights", str(runs / f"seed{seed}/weights")]
    if (status := subprocess.run(command, check=False).returncode) not in (0, MISSED):
        raise SystemExit(f"{' '.join(command)} exited {status}.")
    return {row["name"]: row for row in json.loads(path.read_text())}


def worst(found: list[dict[str, object]]) -> Row:
    """The figure of the seed that is furthest from the goal, with the spread over the seeds."""
    values = [float(str(f["value"])) for f in found]
    goal = str(found[0]["goal"])
    value = min(values) if goal.startswith(">") else max(values)
    return Row(str(found[0]["name"]), value, str(found[0]["unit"]), goal, min(values), max(values), len(values))


if __name__ == "__main__":
    main()
