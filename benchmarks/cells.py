"""Every way to run an engine that this machine can run, each compared with transformers in a process of its own.

    python -m benchmarks.cells                       all of them; prints the worst shares of the bound
    python -m benchmarks.cells --record v2-eager     and write the result into monitor/engine/verified.json
    python -m benchmarks.cells --list

Requests are preempted, prompts come in chunks, and prefixes are shared in each of them. A cell that needs a shim (see
tests/support/shims) says so in its record.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHIMS = ROOT / "tests" / "support" / "shims"
SMALL = {"block_size": 32, "max_num_batched_tokens": 64, "num_gpu_blocks_override": 24}
V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
V2 = {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": str(SHIMS / "triton")}
TWO_RANKS = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
TRITON_NOTE = "V2 under the Triton interpreter (shim)"


def _platform(name: str, *others: Path) -> dict[str, str]:
    return {"PLUMBLINE_SHIMS": name, "PYTHONPATH": os.pathsep.join(map(str, (SHIMS / "platform", *others)))}


@dataclass(frozen=True)
class Cell:
    """One way to run an engine.

    Attributes:
        mode: ``eager`` or ``compiled``. env: environment of the engine. options: engine options.
        note: what is not stock about it.
    """

    mode: str
    env: dict[str, str]
    options: dict[str, object] = field(default_factory=dict)
    note: str = ""


CELLS = {
    "v1-eager": Cell("eager", V1),
    "v1-compiled": Cell("compiled", V1),
    "v1-async": Cell("eager", V1 | _platform("async"), note="asynchronous scheduling forced on the CPU (shim)"),
    "v1-async-compiled": Cell(
        "compiled", V1 | _platform("async"), note="asynchronous scheduling forced on the CPU (shim)"
    ),
    "v1-piecewise": Cell("compiled", V1 | _platform("vllm_compile"), note="VLLM_COMPILE forced on the CPU (shim)"),
    "v1-tp2": Cell("eager", V1 | TWO_RANKS, {"tensor_parallel_size": 2}),
    "v1-tp2-compiled": Cell("compiled", V1 | TWO_RANKS, {"tensor_parallel_size": 2}),
    "v1-pp2-compiled": Cell("compiled", V1 | TWO_RANKS, {"pipeline_parallel_size": 2}),
    "v2-eager": Cell("eager", V2, note=TRITON_NOTE),
    "v2-async": Cell(
        "eager", V2 | _platform("async", SHIMS / "triton"), note=TRITON_NOTE + ", asynchronous scheduling (shim)"
    ),
    "v2-tp2": Cell("eager", V2 | TWO_RANKS, {"tensor_parallel_size": 2}, note=TRITON_NOTE),
    "v2-pp2": Cell("eager", V2 | TWO_RANKS, {"pipeline_parallel_size": 2}, note=TRITON_NOTE),
}


def command(cell: Cell, *extra: str) -> list[str]:
    """The parity run of one cell."""
    options = json.dumps({**SMALL, **cell.options})
    return [sys.executable, "-m", "benchmarks.parity", "--mode", cell.mode, "--engine", options, *extra]


def run_cell(name: str, *extra: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run one cell's parity in a process of its own, with ``extra`` arguments for ``benchmarks.parity``."""
    cell = CELLS[name]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "PLUMBLINE_ALLOW_UNTESTED": "1", **cell.env}
    return subprocess.run(
        command(cell, *extra), cwd=ROOT, env=env, text=True, capture_output=True, timeout=timeout, check=False
    )


def main() -> None:
    """Run cells one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cells (default: all)")
    parser.add_argument("--record", action="store_true", help="write the results to monitor/engine/verified.json")
    parser.add_argument("--list", action="store_true", help="say which cells there are")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name:20} {cell.note}" for name, cell in CELLS.items()))
        return
    failed = []
    for name in args.names or CELLS:
        note = CELLS[name].note
        done = run_cell(name, *(("--record", "--note", note) if args.record else ("--dry",)))
        print(f"{name:20} {done.stdout.strip().splitlines()[-1] if done.returncode == 0 else 'FAILED'}", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stderr[-3000:], file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
