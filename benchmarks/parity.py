"""How far are the engine's scores and steered logits from transformers'?

    python -m benchmarks.parity                      writes results/parity.json
    python -m benchmarks.parity --record             writes monitor/engine/verified.json, which a start-up reads
    python -m benchmarks.parity --record --mode eager --engine '{"tensor_parallel_size": 2}' --note "..."

A real vLLM engine (eager, then compiled) and a transformers model with hooks run the same 50 random prompts under five
steerings in mixed batches. The figure is the worst deviation as a share of the bound: for scores 1e-3 of the larger of
|score| and the column's standard deviation, for logits 1e-3 of their standard deviation. 1.0 or less is exact enough.

What is recorded is the setup that really ran: the installed vLLM, and runner, device, scheduling, compilation and
ranks out of the engine's own configuration. Choose them as vLLM lets you, for example VLLM_USE_V2_MODEL_RUNNER=1.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.rows import Row, write_rows
from monitor.engine.verified import Result, Setup, record_result
from tests.support.engine import Engine
from tests.support.parity import measure, random_prompts
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model

N_PROMPTS = 50
N_LONG = 12  # with long responses: where the KV cache is small, they are preempted
MODES = ("eager", "compiled")
Shares = list[tuple[float, float]]


def main() -> None:
    """Measure the modes; print them, and write rows or records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the results to monitor/engine/verified.json")
    parser.add_argument("--mode", action="append", choices=MODES, help="only this one (default: both)")
    parser.add_argument("--engine", type=json.loads, default={}, help="more engine options, as JSON")
    parser.add_argument("--dry", action="store_true", help="print the worst shares and write nothing")
    parser.add_argument("--note", default="", help="what was not stock about the run, for the record")
    args = parser.parse_args()
    if args.record:
        os.environ["PLUMBLINE_ALLOW_UNTESTED"] = "1"  # it is being tested
    runs = measure_modes(args.mode or MODES, args.engine)
    if args.dry:
        worst = [max(column) for column in zip(*(pair for _, shares in runs.values() for pair in shares), strict=True)]
        print(f"scores {worst[0]:.3g}, logits {worst[1]:.3g} of the bound")
        return
    if not args.record:
        write_rows("parity", [row for mode, (_, shares) in runs.items() for row in rows_of(mode, shares)],
                   "python -m benchmarks.parity")  # fmt: skip
        return
    for setup, shares in runs.values():
        result = result_of(setup, shares, args.note)
        record_result(result)
        print(f"recorded: {result}: scores {result.scores:.3g}, logits {result.logits:.3g} of the bound")


def measure_modes(modes: Sequence[str], options: Mapping[str, Any]) -> dict[str, tuple[Setup, Shares]]:
    """Run one engine after the other, all on one random model and bundle."""
    import vllm

    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = make_model(path / "model")
        bundle = make_bundle(path / "bundle", model)
        reference = Reference(model, bundle)
        for mode in modes:
            (path / mode).mkdir()
            engine = Engine(model, bundle, path / mode, enforce_eager=mode == "eager", **options)
            shares = measure(engine, reference, random_prompts(N_PROMPTS, seed=1))
            shares += measure(engine, reference, random_prompts(N_LONG, seed=2), max_tokens=60)
            config = engine.llm.llm_engine.vllm_config
            runs[mode] = Setup.of(vllm.__version__, config, config.device_config.device_type), shares
            engine.close()
    return runs


def rows_of(mode: str, shares: Shares) -> list[Row]:
    """One row for the scores and one for the logits."""
    return [
        Row(f"{what}_parity_{mode}", max(column), "share of the bound", "<= 1", min(column), max(column), len(column))
        for what, column in zip(("score", "logit"), zip(*shares, strict=True), strict=True)
    ]


def result_of(setup: Setup, shares: Shares, note: str) -> Result:
    """The entry of ``verified.json``."""
    scores, logits = (max(column) for column in zip(*shares, strict=True))
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return Result(
        **msgspec.structs.asdict(setup), scores=scores, logits=logits, prompts=len(shares), note=note, date=today
    )


if __name__ == "__main__":
    main()
