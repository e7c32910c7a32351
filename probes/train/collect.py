"""Activations of every layer for the tokens that probes read, on disk.

Shards are safetensors of ``layer.<i>``: ``(n_tokens, d_model)`` fp32, examples one behind the other. A
shard is written under another name and renamed when it is whole, so an interrupted run goes on after
the last whole one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.train.encode import Encoded
from probes.train.model import LoadedModel, forward, recorded
from probes.train.progress import Reporter

SHARD_EXAMPLES = 256
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Activations:
    """Collected activations: examples in order, tokens of each in order.

    Attributes:
        examples: what was collected.
        shards: files, in order.
    """

    examples: tuple[Encoded, ...]
    shards: tuple[Path, ...]

    @property
    def offsets(self) -> Tensor:
        """``(n_examples + 1,)`` int64: example i owns rows ``offsets[i]:offsets[i + 1]``."""
        return torch.tensor([0, *(e.n_read for e in self.examples)]).cumsum(0)

    def layer(self, index: int) -> Tensor:
        """Activations of one layer: ``(n_tokens, d_model)`` fp32 on the CPU."""
        parts = []
        for shard in self.shards:
            with safe_open(shard, framework="pt") as file:
                parts.append(file.get_tensor(f"layer.{index}"))
        return torch.cat(parts)


def collect(
    model: LoadedModel,
    examples: Sequence[Encoded],
    folder: Path,
    reporter: Reporter,
    *,
    what: str,
    steering: AbstractContextManager[None] | None = None,
) -> Activations:
    """Run the model once over ``examples`` and keep what probes read.

    Args:
        model: whose activations are taken.
        examples: at least one.
        folder: for the shards; whole shards found there are kept, so give each (model, data, steering)
            its own.
        reporter: told about progress.
        what: shown to people.
        steering: opened around the forward passes, for activations under steering.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [examples[i : i + SHARD_EXAMPLES] for i in range(0, len(examples), SHARD_EXAMPLES)]
    shards = tuple(folder / f"shard-{i:05d}.safetensors" for i in range(len(chunks)))
    total = sum(len(e.ids) for e in examples)
    # Recording is opened first: it sees the stream before `add` writes at the same layer, like the engine.
    with recorded(model) as store, steering or nullcontext(), reporter.track(what, total, "tokens") as advance:
        for chunk, shard in zip(chunks, shards, strict=True):
            if not shard.exists():
                partial = shard.with_suffix(".partial")
                save_file(_run(model, chunk, store), partial)
                partial.rename(shard)
            advance(sum(len(e.ids) for e in chunk))
    return Activations(tuple(examples), shards)


def _run(model: LoadedModel, examples: Sequence[Encoded], store: list[Tensor]) -> dict[str, Tensor]:
    rows: list[list[Tensor]] = [[torch.empty(0)] * len(examples) for _ in model.layers]
    for batch in _batches(examples):
        forward(model, [examples[i].ids for i in batch])
        for layer, activations in enumerate(store):
            for row, i in enumerate(batch):
                rows[layer][i] = activations[row, examples[i].start : examples[i].end].float().cpu()
    return {f"layer.{layer}": torch.cat(parts) for layer, parts in enumerate(rows)}


def _batches(examples: Sequence[Encoded]) -> Iterator[list[int]]:
    """Indices in batches of at most ``BATCH_TOKENS`` padded tokens, alike in length."""
    batch: list[int] = []
    for i in sorted(range(len(examples)), key=lambda i: len(examples[i].ids)):
        if batch and (len(batch) + 1) * len(examples[i].ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def free_bytes_needed(examples: Sequence[Encoded], model: LoadedModel) -> int:
    """Disk space that :func:`collect` takes for ``examples``."""
    return sum(e.n_read for e in examples) * len(model.layers) * model.d_model * 4


def check_space(folder: Path, needed: int) -> None:
    """Refuse before the first forward pass if the disk cannot hold the activations.

    Raises:
        OSError: naming both sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    if needed > free:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, the activations need {needed / 1e9:.1f} GB. "
            "Give another folder with --work, or less data."
        )
