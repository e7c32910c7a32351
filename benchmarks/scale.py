"""What do collecting and fitting cost as tokens grow? 4096 dimensions, 8 concepts. Writes results/scale.json.

    python -m benchmarks.scale --rows 10000 --rows 100000   # these rows only; the others stay
    python -m benchmarks.scale                              # 10,000, 100,000 and 1,000,000; needs 17 GB of disk

No model of that width runs here, so a generator writes synthetic activations through the writer that every collection
uses (``scale_write_...``: noise, and for each concept a shift along a direction of its own); the fit then reads them
in batches and fits mass-mean, LDA, ridge and logistic probes of all concepts in one pass (``scale_fit_...``). Each size
has a process of its own, whose largest resident memory is ``scale_peak_...``. ``scale_worst_auroc_...`` is the worst of
all probes on fresh rows: it says that the fit was one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Row, write_rows

if TYPE_CHECKING:  # each size imports them in a process of its own
    from collections.abc import Iterator, Sequence

    from torch import Generator, Tensor

    from probes.train.collect import Activations
    from probes.train.estimators.streaming import StreamedProbes
    from probes.train.progress import Advance

ROWS = (10_000, 100_000, 1_000_000)
D_MODEL, N_CONCEPTS = 4096, 8
SEQUENCE = 500
SHIFT = 3.0
"""Distance of the two classes along a concept's direction, in standard deviations of the noise."""
FRESH = 2000
BATCH = 8192
LAYER = 0


def main() -> None:
    """Measure what was asked for, each size in a process of its own; print and write the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", action="append", type=int, help="repeatable; default 10000, 100000 and 1000000")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one)))
        return
    command = " ".join(["python -m benchmarks.scale", *sys.argv[1:]])
    for n in options.rows or ROWS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", "--one", str(n)], stdout=subprocess.PIPE, text=True, check=True
        )
        write_rows("scale", rows(n, json.loads(done.stdout)), command, merge=True)


def rows(n: int, found: dict[str, float]) -> list[Row]:
    """The figures of one size."""

    def row(name: str, unit: str, goal: str = "") -> Row:
        return Row(f"scale_{name}_{n}x{D_MODEL}", found[name], unit, goal, found[name], found[name], n)

    return [
        row("write_seconds", "s"),
        row("fit_seconds", "s"),
        row("peak_memory", "GiB", "<= 8"),
        row("worst_auroc", "AUROC", ">= 0.9"),
    ]


def measure(n: int) -> dict[str, float]:
    """Write ``n`` synthetic rows, fit every concept, and look at fresh rows."""
    import torch
    from rich.console import Console

    from probes.train.estimators.streaming import fit_streaming
    from probes.train.progress import Terminal

    reporter = Terminal(Console(stderr=True))
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(D_MODEL, N_CONCEPTS, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with reporter.track(f"writing {n} synthetic rows", n, "rows") as advance:
            activations, targets = write(Path(folder), n, directions.T, generator, advance)
        written = time.perf_counter()
        with reporter.track(f"fitting {N_CONCEPTS} concepts", n, "rows") as advance:
            fitted = fit_streaming(labelled(activations, targets, advance))
        done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    fresh, labels = synthetic(FRESH, directions.T, generator)
    return {
        "write_seconds": written - began,
        "fit_seconds": done - written,
        "peak_memory": peak,
        "worst_auroc": worst_auroc(fitted, fresh, labels),
    }


def labelled(activations: Activations, targets: Tensor, advance: Advance) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of rows and their labels."""
    for place, batch in activations.batches(LAYER, BATCH):
        yield batch, targets[place]
        advance(len(batch))


def write(
    folder: Path, n: int, directions: Tensor, generator: Generator, advance: Advance
) -> tuple[Activations, Tensor]:
    """Shards of ``n`` synthetic rows of one layer, and their labels ``(n, n_concepts)`` fp32."""
    import torch

    from probes.activations.job import Job, TokenSequence
    from probes.activations.shards import ChunkBuffer, ShardWriter
    from probes.train.collect import Activations
    from probes.train.encode import Encoded
    from probes.types import Scope

    lengths = [min(SEQUENCE, n - start) for start in range(0, n, SEQUENCE)]
    examples = [Encoded((0,) * k, Scope.ALL, 0, k, 0, (0,) * k, (1.0,) * k) for k in lengths]
    job = Job.bounded([TokenSequence(e.ids, ((e.start, e.end),)) for e in examples], [LAYER], D_MODEL)
    writer = ShardWriter(folder, job)
    targets = torch.empty(n, N_CONCEPTS)
    for chunk in writer.missing:
        buffer = ChunkBuffer(job, chunk)
        found, labels = synthetic(len(chunk.rows), directions, generator)
        places = torch.tensor(chunk.rows)
        buffer.put(LAYER, places, found)
        targets[places] = labels
        writer.write(buffer)
        advance(len(chunk.rows))
    return Activations(tuple(examples), writer.paths), targets


def synthetic(n: int, directions: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rows ``(n, d_model)`` and labels ``(n, n_concepts)`` of 0 and 1, fp32."""
    import torch

    labels = torch.randint(2, (n, N_CONCEPTS), generator=generator).float()
    noise = torch.randn(n, D_MODEL, generator=generator)
    return noise + (labels - 0.5) * SHIFT @ directions, labels


def worst_auroc(fitted: Sequence[StreamedProbes], fresh: Tensor, labels: Tensor) -> float:
    """The lowest AUROC of all probes of all concepts on rows that none of them saw."""
    from sklearn.metrics import roc_auc_score

    return min(
        float(roc_auc_score(labels[:, i].numpy(), probe.decision_function(fresh.numpy())))
        for i, concept in enumerate(fitted)
        for probe in concept.probes.values()
    )


if __name__ == "__main__":
    main()
