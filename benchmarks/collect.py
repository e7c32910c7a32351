"""How fast are activations collected through transformers, and through vLLM? Writes results/collect.json.

    python -m benchmarks.collect                    # the shipped organism and a 75 M model
    python -m benchmarks.collect --model organism   # these rows only; the others stay
    python -m benchmarks.collect --quick            # one short pair; nothing is written

Both ways run the same sequences, keep every token at every layer as fp32, and write the same shards. They run in one
process with the same threads, one after the other: a pair is transformers, vLLM, vLLM, transformers, or the other way
round, and its figure is the ratio of the sums. The start of vLLM is told apart: it is paid once for a collection.

Rows, for each model M:
    collect_vllm_over_transformers_M        tokens/s through vLLM over tokens/s through transformers, by pairs
    collect_transformers_M, collect_vllm_M  tokens/s of each run
    collect_vllm_start_M                    seconds until the engine could run its first step
    collect_worst_share_M                   largest difference of the two, as a share of the bound
                                            1e-3 max(|b|, the column's standard deviation)
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import write_model
from benchmarks.rows import Row, write_rows
from monitor.engine.collect import run_job, start_engine
from probes.train.collect import Activations, collect, make_job
from probes.train.encode import Encoded
from probes.train.model import LoadedModel, wrap_model
from probes.train.progress import Silent
from probes.types import Scope
from tests.support.parity import score_share

ORGANISM = Path(__file__).parents[1] / "probes/organism/weights"
SEQUENCES = {"organism": 400, "75m": 60}
QUICK_SEQUENCES = 12
SHORTEST, LONGEST = 16, 256
ORDERS = (("transformers", "vllm", "vllm", "transformers"), ("vllm", "transformers", "transformers", "vllm"))


@dataclass(frozen=True)
class Side:
    """One way to collect: ``run`` writes the shards of all sequences into a folder."""

    run: Callable[[Path], object]
    seconds: list[float]


def main() -> None:
    """Measure what was asked for; print and write the rows."""
    options = parse(sys.argv[1:])
    command = " ".join(["python -m benchmarks.collect", *sys.argv[1:]])
    for name in options.model or list(SEQUENCES):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            model = ORGANISM if name == "organism" else write_model(path / "model", name)
            n_sequences = QUICK_SEQUENCES if options.quick else SEQUENCES[name]
            rows = measure(name, model, path, n_sequences, 1 if options.quick else options.pairs)
        if options.quick:
            print(*rows, "--quick: nothing written", sep="\n")
        else:
            write_rows("collect", rows, command, merge=True)


def measure(name: str, folder: Path, scratch: Path, n_sequences: int, n_pairs: int) -> list[Row]:
    """The rows of one model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with engine(folder, AutoConfig.from_pretrained(folder)) as (llm, started):
        # After vLLM: loading brings numba, and vLLM's CPU platform fails on that when it looks through all modules.
        network = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        model = wrap_model(network, None, folder)
        examples = random_examples(model, n_sequences)
        job = make_job(model, examples)
        sides = {
            "transformers": Side(lambda out: collect(model, examples, out, Silent(), what=""), []),
            "vllm": Side(lambda out: run_job(llm, job, out, lambda _: None), []),
        }
        share = compare(sides, model, examples, scratch)  # warms both up, and does not count
        for pair in range(n_pairs):
            for way in ORDERS[pair % 2]:
                timed(sides[way], scratch / way)
    tokens = job.offsets[-1]
    rates = {way: [tokens / s for s in side.seconds] for way, side in sides.items()}
    slow, fast = (np.reshape(sides[way].seconds, (-1, 2)).sum(axis=1) for way in ("transformers", "vllm"))
    return [
        _row(f"collect_vllm_over_transformers_{name}", (slow / fast).tolist(), "ratio"),
        _row(f"collect_transformers_{name}", rates["transformers"], "tokens/s"),
        _row(f"collect_vllm_{name}", rates["vllm"], "tokens/s"),
        _row(f"collect_vllm_start_{name}", [started], "s"),
        _row(f"collect_worst_share_{name}", [share], "share of the bound", "<= 1"),
    ]


def random_examples(model: LoadedModel, n: int) -> list[Encoded]:
    """Sequences of random tokens, all of them read."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(SHORTEST, LONGEST, size=n)
    sequences = [tuple(rng.integers(model.network.config.vocab_size, size=length).tolist()) for length in lengths]
    return [Encoded(ids, Scope.ALL, 0, len(ids), 0, (0,) * len(ids), (1.0,) * len(ids)) for ids in sequences]


@contextmanager
def engine(folder: Path, config: Any) -> Iterator[tuple[Any, float]]:
    """An engine in this process that collects every layer, and the seconds that it took to start."""
    began = time.perf_counter()
    llm = start_engine(folder, range(config.num_hidden_layers), config.hidden_size, LONGEST)
    yield llm, time.perf_counter() - began
    llm.llm_engine.engine_core.shutdown()


def compare(sides: dict[str, Side], model: LoadedModel, examples: list[Encoded], scratch: Path) -> float:
    """The largest difference between the two ways over all layers and tokens, as a share of the bound."""
    found = {}
    for way, side in sides.items():
        side.run(scratch / way)
        shards = tuple(sorted((scratch / way).glob("*.safetensors")))
        found[way] = Activations(tuple(examples), shards)
    shares = [
        score_share(found["vllm"].layer(i).numpy(), found["transformers"].layer(i).numpy())
        for i in range(len(model.layers))
    ]
    for way in sides:
        shutil.rmtree(scratch / way)
    return max(shares)


def timed(side: Side, out: Path) -> None:
    """Run one side once, and note how long it took."""
    began = time.perf_counter()
    side.run(out)
    side.seconds.append(time.perf_counter() - began)
    shutil.rmtree(out)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(SEQUENCES), help="repeatable; default both")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each model (default 5)")
    parser.add_argument("--quick", action="store_true", help="one short pair; nothing is written")
    return parser.parse_args(arguments)


def _row(name: str, values: list[float], unit: str, goal: str = "") -> Row:
    return Row(name, statistics.median(values), unit, goal, min(values), max(values), len(values))


if __name__ == "__main__":
    main()
