"""What do taps and steering cost? Interleaved pairs against plain, compiled vLLM. Writes results/engine.json.

    python -m benchmarks.engine                  # about 75 million parameters, batches 1 and 16
    python -m benchmarks.engine --pairs 9 --batch 1 --batch 16 --batch 64

Two engines of one run, one plain and one instrumented, generate from the same prompts in turn (plain, instrumented,
instrumented, plain, ...), so that the machine's drift hits both alike. A pair's figure is the ratio of their times
minus one; the row is the median over the pairs, with the spread. Absolute times on a shared machine mean little.

Modes: ``off`` (instrumented, requests without a plan), ``reading`` (8 probes on 3 layers, each with a rule),
``steering_1`` (one steering for all requests), ``steering_16`` (16 different ones).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Row, write_rows
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action, Operator, Steering
from probes.types import FoldKind, FoldSpec, Scope
from tests.support.engine import Engine, generate, start_llm, stop_llm
from tests.support.tiny import make_bundle, make_model

SIZE_75M = {
    "hidden_size": 768, "num_hidden_layers": 10, "num_attention_heads": 12, "num_key_value_heads": 4,
    "intermediate_size": 2304, "max_position_embeddings": 1024, "vocab_size": 8192,
}  # fmt: skip
EIGHT_ON_THREE = tuple(
    (f"probe_{i}", (3, 5, 7)[i % 3], FoldSpec(kind=kind), (Scope.RESPONSE, Scope.LAST_USER)[i % 2])
    for i, kind in enumerate([*FoldKind, *FoldKind][:8])
)
GOALS = {"off": "<= 0.02", "reading": "<= 0.02", "steering_1": "<= 0.03", "steering_16": "<= 0.03"}
N_NEW = 48
NEVER = 1e9


def plans(engine: Engine, mode: str, n: int) -> list[GatePlan | None]:
    """One plan for each request of a batch."""
    if mode == "off":
        return [None] * n
    rules = [DetectorPlan(p.name, p.name, NEVER, Action.FLAG) for p in engine.bundle.manifest.probes]
    if mode == "reading":
        return [engine.plan(detectors=rules) for _ in range(n)]
    distinct = 1 if mode == "steering_1" else 16
    steerings = [
        (Steering("refusal", (Operator.ADD, Operator.ABLATE)[i % 2], 0.01 * (i + 1)),) for i in range(distinct)
    ]
    return [engine.plan(detectors=rules, steering=steerings[i % distinct]) for i in range(n)]


def seconds(llm: Any, prompts: list[list[int]], batch_plans: list[GatePlan | None]) -> float:
    """Time of one batch, from submission to the last token."""
    began = time.perf_counter()
    generate(llm, prompts, batch_plans, max_tokens=N_NEW)
    return time.perf_counter() - began


def overheads(plain: Any, engine: Engine, mode: str, n: int, n_pairs: int) -> list[float]:
    """``instrumented / plain - 1`` of each pair; the first pair warms up and is not counted."""
    rng = np.random.default_rng(n)
    found = []
    for pair in range(n_pairs + 1):
        prompts = [rng.integers(7, 8000, size=32).tolist() for _ in range(n)]  # new ones: no prefix-cache hits
        batch_plans = plans(engine, mode, n)
        if pair % 2:
            theirs, ours = seconds(plain, prompts, [None] * n), seconds(engine.llm, prompts, batch_plans)
        else:
            ours, theirs = seconds(engine.llm, prompts, batch_plans), seconds(plain, prompts, [None] * n)
        found.append(ours / theirs - 1)
    return found[1:]


def main() -> None:
    """Measure every mode and batch size, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="pairs for each figure (default 7)")
    parser.add_argument("--batch", type=int, action="append", help="batch sizes (default 1 and 16)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = make_model(path / "model", sizes=SIZE_75M)
        bundle = make_bundle(path / "bundle", model, specs=EIGHT_ON_THREE)
        shape = {"dtype": "bfloat16", "max_model_len": 256, "max_num_seqs": 64, "max_num_batched_tokens": 2048}
        plain = start_llm(model, **shape)
        engine = Engine(model, bundle, path, **shape)
        for n in options.batch or [1, 16]:
            for mode, goal in GOALS.items():
                found = overheads(plain, engine, mode, n, options.pairs)
                name = f"{mode}_overhead_b{n}_75m"
                rows.append(Row(name, statistics.median(found), "ratio", goal, min(found), max(found), len(found)))
                print(f"{name}: {statistics.median(found):+.2%} ({min(found):+.2%} to {max(found):+.2%})", flush=True)
        engine.close()
        stop_llm(plain)
    write_rows("engine", rows, "python -m benchmarks.engine")


if __name__ == "__main__":
    main()
