"""Parity and cost on an NVIDIA GPU, in one command. Writes results/gpu.json, with date and hardware.

    python -m benchmarks.gpu                       # parity, then the 8B shape: an hour or more, two engines on one GPU
    python -m benchmarks.gpu --dry-run             # say what is there, what is missing and what would run
    python -m benchmarks.gpu --device cpu --tiny   # prove this script on the CPU, tiny model, eager; no figures

Parity: a tiny model against transformers, in fp32 (bound: 1e-3 of a standard deviation, see tests/support/parity.py)
and in bf16 (bound: 5e-2, what bf16's 8 bits leave after four layers). Cost: the comparison of benchmarks.engine with
random weights in the shape of Llama 3.1 8B. On the GPU both use vLLM's V2 runner, FULL CUDA graphs and async
scheduling. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.compare import Setup, compare
from benchmarks.gpu.found import Found, look
from benchmarks.modes import MODES
from benchmarks.rows import RESULTS, Row, write_rows
from benchmarks.serving import environment

GOALS = {"reading": "<= 0.005", "steering_1": "<= 0.02", "steering_16": "<= 0.02"}
GPU_GIB = 60.0
GPU_OPTIONS = {
    "compilation_config": {"cudagraph_mode": "FULL"}, "async_scheduling": True, "gpu_memory_utilization": 0.42,
}  # fmt: skip
GPU_ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
BF16_BOUND = 50
"""How many times fp32's bound of 1e-3 standard deviations bf16 may deviate."""
N_PROMPTS = 50


def main() -> int:
    """Check, measure, write."""
    options = parse(sys.argv[1:])
    found = look()
    setup = plan(options)
    missing = found.lacks(cuda=options.device == "cuda", gib=0.0 if options.tiny else GPU_GIB)
    print(describe(found, setup, missing, options))
    if missing:
        return 2
    if options.dry_run:
        return 0
    os.environ.update(GPU_ENVIRONMENT if options.device == "cuda" else {})
    rows = []
    for row in [*parity(dict(setup.options), 5 if options.tiny else N_PROMPTS), *compare(setup)]:
        rows.append(row)
        print(f"{row.name:40} {row.value:+10.4f} {row.unit} ({row.min:+.4f} to {row.max:+.4f}, n={row.n})")
    if options.tiny and options.results is None:
        print("--tiny: nothing written (name a folder with --results)")
        return 0
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    write_rows("gpu", rows, command, machine=f"{found.line()}; {today}", folder=options.results or RESULTS)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu needs --tiny (default cuda)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, few pairs: tries the script, no figures")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="repeatable; default all")
    parser.add_argument("--pairs", type=int, default=10, help="fewest pairs of each figure (default 10)")
    parser.add_argument("--results", type=Path, help="folder for gpu.json (default benchmarks/results)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu proves the script only and needs --tiny; figures for the CPU: benchmarks.engine")
    return options


def plan(options: argparse.Namespace) -> Setup:
    """What is measured under these options."""
    names = options.mode or list(MODES)
    return Setup(
        model="tiny" if options.tiny else "8b",
        modes=[replace(MODES[name], goal=GOALS.get(name, "")) for name in names],
        new_tokens={2: 4} if options.tiny else {1: 128, 16: 128, 64: 128},
        per_round=1 if options.tiny else 5,
        least=1 if options.tiny else options.pairs,
        most=1 if options.tiny else max(options.pairs, 25),
        width=0.003,
        options=GPU_OPTIONS if options.device == "cuda" else {"enforce_eager": True},
        own_processes=options.device == "cuda",
    )


def describe(found: Found, setup: Setup, missing: list[str], options: argparse.Namespace) -> str:
    """What is there, what is missing, what would run."""
    lines = [f"found: {found.line()}"]
    lines += [f"MISSING: {item}" for item in missing]
    lines += [
        "parity: tiny model against transformers, fp32 and bf16",
        f"cost: model {setup.model}, batches {', '.join(map(str, setup.new_tokens))}, at least {setup.least} pairs",
        f"modes: {', '.join(mode.name for mode in setup.modes)}",
        f"engine options: {dict(setup.options) or 'defaults'}",
        f"environment: {GPU_ENVIRONMENT if options.device == 'cuda' else 'as it is'}",
    ]
    return "\n".join(lines)


def parity(engine_options: dict[str, object], n_prompts: int) -> Iterator[Row]:
    """Worst deviation from transformers in each precision, as a share of that precision's bound."""
    from tests.support.engine import Engine
    from tests.support.parity import measure, random_prompts
    from tests.support.reference import Reference
    from tests.support.tiny import make_bundle, make_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = make_model(path / "model")
        bundle = make_bundle(path / "bundle", model)
        reference = Reference(model, bundle)
        for dtype, bound in (("float32", 1), ("bfloat16", BF16_BOUND)):
            (path / dtype).mkdir()
            with environment({"PLUMBLINE_ALLOW_UNTESTED": "1"}):  # and what the engine sets ends here
                engine = Engine(model, bundle, path / dtype, dtype=dtype, **engine_options)
            shares = measure(engine, reference, random_prompts(n_prompts, seed=1))
            engine.close()
            for what, column in zip(("score", "logit"), zip(*shares, strict=True), strict=True):
                values = [share / bound for share in column]
                unit = f"share of {1e-3 * bound:g} standard deviations"
                yield Row(f"{what}_parity_{dtype}", max(values), unit, "<= 1", min(values), max(values), n_prompts)


if __name__ == "__main__":
    raise SystemExit(main())
