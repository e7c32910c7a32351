"""The files that hold collected activations.

A shard is a safetensors file of ``layer.<i>``: ``(n_rows, d_model)`` in the job's dtype, global rows in order, with the
job's digest in its metadata. It is written under another name and renamed when it is whole, so whatever has the name of
a shard is one, and an interrupted collection goes on with the chunks that are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.activations.job import Chunk, DtypeName, Job
from probes.errors import DataError

DTYPES: dict[DtypeName, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Piece = tuple[int, int, int, int]
"""Sequence, its positions from start to end, and the row of a batch at which they begin."""


def tensor_name(layer: int) -> str:
    """The tensor of a layer in a shard."""
    return f"layer.{layer}"


def find_rows(job: Job, pieces: Iterable[Piece]) -> tuple[Tensor, Tensor]:
    """Which rows of a batch are kept, and as which global rows: two ``(n,)`` int64.

    Args:
        job: what is kept.
        pieces: the stretches of sequences that the batch consists of.
    """
    sources, targets = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for sequence, start, end, row in pieces:
        for position, target, n in job.kept(sequence, start, end):
            sources.append(torch.arange(row + position - start, row + position - start + n))
            targets.append(torch.arange(target, target + n))
    return torch.cat(sources), torch.cat(targets)


class ChunkBuffer:
    """The rows of one chunk while they arrive, in any order.

    Attributes:
        chunk: whose rows these are.
        layers: ``(n_rows, d_model)`` in the job's dtype on the CPU, by layer; NaN until a row arrives.
    """

    def __init__(self, job: Job, chunk: Chunk) -> None:
        shape, dtype = (len(chunk.rows), job.d_model), DTYPES[job.dtype]
        self.chunk = chunk
        self.layers = {layer: torch.full(shape, torch.nan, dtype=dtype) for layer in job.layers}
        self._arrived = torch.zeros(len(chunk.rows), dtype=torch.bool)

    def put(self, layer: int, targets: Tensor, rows: Tensor) -> None:
        """Keep ``rows``, ``(n, d_model)`` of any dtype and device, as the global rows ``targets``, ``(n,)`` int64."""
        self.layers[layer][targets - self.chunk.rows.start] = rows.to(self.layers[layer])

    def mark(self, targets: Tensor) -> None:
        """These global rows have arrived at every layer."""
        self._arrived[targets - self.chunk.rows.start] = True

    @property
    def complete(self) -> bool:
        """Whether every row has arrived."""
        return bool(self._arrived.all())


class ShardWriter:
    """Writes the shards of one job into a folder, and knows which are there.

    Raises:
        DataError: the folder holds shards of another job.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._job = folder, job
        self.paths = tuple(folder / name for chunk in job.chunks for name, _ in chunk.files)
        self.missing = tuple(c for c in job.chunks if not all(self._is_whole(folder / name) for name, _ in c.files))

    def write(self, buffer: ChunkBuffer) -> None:
        """Write the shards of one chunk.

        Raises:
            DataError: an activation is not finite.
            OSError: the disk is full, or cannot be written; whole shards stay, nothing else does.
        """
        for layer, rows in buffer.layers.items():
            if not bool(torch.isfinite(rows).all()):
                bad = int((~torch.isfinite(rows)).any(dim=1).sum())
                raise DataError(
                    f"layer {layer}: {bad} of {len(rows)} activations are not finite in {self._job.dtype}; the model "
                    "overflows, or its values are beyond the range of fp16. Store them as bf16 or fp32."
                )
        for name, part in buffer.chunk.files:
            own = slice(part.start - buffer.chunk.rows.start, part.stop - buffer.chunk.rows.start)
            tensors = {tensor_name(layer): rows[own] for layer, rows in buffer.layers.items()}
            self._write(self._folder / name, tensors)

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        partial = path.with_suffix(".partial")
        try:
            save_file(tensors, partial, metadata={"job": self._job.digest})
            partial.rename(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise OSError(
                f"{path} cannot be written: {error}. The shards before it are whole; make room and start again."
            ) from error

    def _is_whole(self, path: Path) -> bool:
        """Whether the shard is there; what cannot be read is written again."""
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except SafetensorError:  # after a power failure
            return False
        if metadata.get("job") != self._job.digest:
            raise DataError(
                f"{path} was collected for other data, layers, positions or another dtype; delete {self._folder}, "
                "or give another folder."
            )
        return True


def read_batches(shards: Sequence[Path], layer: int, n_rows: int, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """One layer's global rows in order, ``rows`` at a time.

    Args:
        shards: all of a job, in order.
        layer: 0-based block.
        n_rows: in all shards together.
        rows: of each batch; the last one may be smaller.

    Yields:
        The global rows, and their activations: ``(n, d_model)`` fp32 on the CPU, the caller's own.

    Raises:
        DataError: the layer was not collected, or the shards have fewer rows than they should.
    """
    batch = torch.empty(0)
    start = filled = 0
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            stored = _layer_of(file, shard, layer)
            n_stored, d_model = stored.get_shape()
            taken = 0
            while taken < n_stored:
                if start == n_rows:
                    raise DataError(f"{shard} has rows beyond the {n_rows} of its examples; collect again.")
                if not filled:
                    batch = torch.empty(min(rows, n_rows - start), d_model)
                n = min(len(batch) - filled, n_stored - taken)
                batch[filled : filled + n] = stored[taken : taken + n]
                taken, filled = taken + n, filled + n
                if filled == len(batch):
                    yield slice(start, start + filled), batch
                    start, filled = start + filled, 0
    if start != n_rows:
        raise DataError(
            f"{shards[0].parent} has {start + filled} rows of layer {layer}, wanted {n_rows}; collect again."
        )


def _layer_of(file: Any, shard: Path, layer: int) -> Any:
    """A layer's tensor in an open shard, to be read in parts."""
    names = file.keys()
    if tensor_name(layer) not in names:
        raise DataError(f"{shard} has no layer {layer}, only {', '.join(sorted(names))}; collect that layer too.")
    return file.get_slice(tensor_name(layer))
