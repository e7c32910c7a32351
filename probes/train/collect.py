"""Activations for the tokens that are read, of all layers or of chosen ones, on disk.

They come from one pass through transformers, or through vLLM (:mod:`probes.train.collect_vllm`): the same numbers, in
the same shards (:mod:`probes.activations`). Memory is bounded by a chunk of the job, whatever the number of tokens.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from probes.activations.job import Chunk, DtypeName, Job, TokenSequence
from probes.activations.shards import ChunkBuffer, ShardWriter, find_rows, read_batches
from probes.errors import DataError
from probes.train.collect_vllm import collect_through_vllm
from probes.train.encode import Encoded, Positions
from probes.train.model import LoadedModel, forward, observed
from probes.train.progress import Reporter

BATCH_TOKENS = 8192
"""Most tokens, padding included, of one forward pass."""

Through = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class Activations:
    """Collected activations: examples in order, tokens of each in order.

    Attributes:
        examples: what was collected.
        shards: files, in order.
        positions: which tokens of each example were kept.
    """

    examples: tuple[Encoded, ...]
    shards: tuple[Path, ...]
    positions: Positions = Positions.SCOPE

    @functools.cached_property
    def offsets(self) -> Tensor:
        """``(n_examples + 1,)`` int64: example i owns rows ``offsets[i]:offsets[i + 1]``."""
        counts = [sum(end - start for start, end in e.at(self.positions)) for e in self.examples]
        return torch.tensor([0, *counts]).cumsum(0)

    def mask(self, positions: Positions) -> Tensor:
        """Which of the kept rows are also of this kind: ``(n_tokens,)`` bool."""
        found = [torch.empty(0, dtype=torch.bool)]
        for example in self.examples:
            inside = torch.zeros(len(example.ids), dtype=torch.bool)
            for start, end in example.at(positions):
                inside[start:end] = True
            found += [inside[start:end] for start, end in example.at(self.positions)]
        return torch.cat(found)

    def layer(self, index: int) -> Tensor:
        """Activations of one layer at once: ``(n_tokens, d_model)`` fp32 on the CPU. For sets that fit into memory.

        Raises:
            DataError: the layer was not collected.
        """
        return next(batch for _, batch in self.batches(index, int(self.offsets[-1])))

    def batches(self, layer: int, rows: int = 65536) -> Iterator[tuple[slice, Tensor]]:
        """Activations of one layer in order, at most ``rows`` at a time.

        Yields:
            Which rows, and their activations: ``(n, d_model)`` fp32 on the CPU.

        Raises:
            DataError: the layer was not collected.
        """
        return read_batches(self.shards, layer, int(self.offsets[-1]), rows)


def collect(
    model: LoadedModel,
    examples: Sequence[Encoded],
    folder: Path,
    reporter: Reporter,
    *,
    what: str,
    steering: AbstractContextManager[None] | None = None,
    layers: Sequence[int] | None = None,
    positions: Positions = Positions.SCOPE,
    dtype: DtypeName = "fp32",
    through: Through = "transformers",
) -> Activations:
    """Run the model once over ``examples`` and keep what is asked for.

    Args:
        model: whose activations are taken.
        examples: at least one.
        folder: for the shards; whole shards found there are kept, so give each (model, steering) its own.
        reporter: told about progress.
        what: shown to people.
        steering: opened around the forward passes, for activations under steering; through transformers only.
        layers: 0-based blocks; None takes all.
        positions: which tokens of each example. An example without such tokens has no rows.
        dtype: in which they are stored; they are read back as fp32.
        through: what runs the model. vLLM loads it anew, from ``model.folder``.

    Raises:
        DataError: the folder holds something else, an activation is not finite, or vLLM is asked for what it cannot do.
        ModelFormatError: vLLM cannot run the model.
        OSError: the disk is full.
    """
    job = make_job(model, examples, layers=layers, positions=positions, dtype=dtype)
    writer = ShardWriter(folder, job)
    check_space(folder, sum(len(c.rows) for c in writer.missing) * job.row_bytes)
    n_tokens = sum(len(e.ids) for e in examples)
    with reporter.track(what, n_tokens, "tokens") as advance:
        advance(n_tokens - sum(job.n_tokens(c) for c in writer.missing))
        if through == "vllm":
            if steering is not None or model.folder is None:
                raise DataError("through vLLM there is no steering, and the model must have been loaded from a folder.")
            if writer.missing:
                collect_through_vllm(model.folder, job, folder, advance)
        else:
            # Hooks are opened first: they see the stream before `add` writes at the same layer, like the engine.
            recorder = _Recorder(job)
            with observed(model, job.layers, recorder.see), steering or nullcontext():
                for chunk in writer.missing:
                    writer.write(recorder.run(model, chunk))
                    advance(job.n_tokens(chunk))
    return Activations(tuple(examples), writer.paths, positions)


def make_job(
    model: LoadedModel,
    examples: Sequence[Encoded],
    *,
    layers: Sequence[int] | None = None,
    positions: Positions = Positions.SCOPE,
    dtype: DtypeName = "fp32",
) -> Job:
    """What :func:`collect` is to do.

    Raises:
        DataError: nothing to keep, or a layer that the model does not have.
    """
    n_layers = len(model.layers)
    if not any(e.at(positions) for e in examples):
        raise DataError(f"none of the {len(examples)} examples has {positions} tokens; choose other positions.")
    if wrong := [layer for layer in layers or () if not 0 <= layer < n_layers]:
        raise DataError(f"layers {wrong} were asked for; the model has layers 0 to {n_layers - 1}.")
    sequences = [TokenSequence(e.ids, e.at(positions)) for e in examples]
    return Job.bounded(sequences, range(n_layers) if layers is None else layers, model.d_model, dtype)


class _Recorder:
    """Puts what hooks see into the rows of a chunk."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._buffer: ChunkBuffer | None = None
        self._sources = self._targets = torch.empty(0, dtype=torch.int64)

    def see(self, layer: int, activations: Tensor) -> None:
        """Take one layer of the batch that runs, ``(n, n_tokens, d_model)``."""
        if self._buffer is not None:
            rows = activations.flatten(0, 1)[self._sources.to(activations.device)]
            self._buffer.put(layer, self._targets, rows)

    def run(self, model: LoadedModel, chunk: Chunk) -> ChunkBuffer:
        """One pass over a chunk."""
        self._buffer = ChunkBuffer(self._job, chunk)
        sequences = self._job.sequences
        for batch in _batches([(i, len(sequences[i].ids)) for i in chunk.sequences if sequences[i].keep]):
            lengths = [len(sequences[i].ids) for i in batch]
            pieces = [(i, 0, n, row * max(lengths)) for row, (i, n) in enumerate(zip(batch, lengths, strict=True))]
            self._sources, self._targets = find_rows(self._job, pieces)
            forward(model, [sequences[i].ids for i in batch])
        return self._buffer


def _batches(lengths: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """From index and length: indices in batches of at most ``BATCH_TOKENS`` padded tokens, alike in length."""
    batch: list[int] = []
    for i, length in sorted(lengths, key=lambda x: x[1]):
        if batch and (len(batch) + 1) * length > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


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
