"""What is collected: token sequences, the positions of each that are kept, and the layers.

The kept rows of all sequences, one sequence behind the other and positions ascending, are numbered from 0: these are
**global rows**. A job is cut into **chunks** of consecutive sequences that are run and written together; a chunk's rows
lie in one shard, or in several if one long sequence has more rows than a shard may hold. The cut depends on the job
alone, so that whoever goes on with an interrupted job finds the same one.

As a file a job is JSONL: a header, then one sequence a line:

    {"layers": [0, 1], "d_model": 192, "dtype": "fp32", "shard_rows": 87381, "chunk_tokens": 32768, "n_sequences": 2}
    {"ids": [3, 17, 5, 4], "keep": [[1, 3]]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from probes.errors import DataError

DtypeName = Literal["fp32", "bf16", "fp16"]
DTYPE_BYTES: dict[DtypeName, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
LAYER_BYTES = 64 * 2**20
"""Most bytes of one layer in a shard."""
SHARD_BYTES = 256 * 2**20
"""Most bytes of a shard."""
CHUNK_TOKENS = 2**15
"""Most tokens that are run before they are written: what an interruption costs."""

Interval = tuple[int, int]
"""First position, and the position after the last one."""


@dataclass(frozen=True)
class TokenSequence:
    """One sequence as the model sees it.

    Attributes:
        ids: token ids.
        keep: positions whose activations are kept, as disjoint intervals in ascending order.
    """

    ids: tuple[int, ...]
    keep: tuple[Interval, ...]

    @property
    def n_kept(self) -> int:
        """How many rows it leaves."""
        return sum(end - start for start, end in self.keep)


@dataclass(frozen=True)
class Chunk:
    """Consecutive sequences that are run and written together.

    Attributes:
        sequences: their indices.
        rows: their global rows.
        files: name and global rows of each of its shards.
    """

    sequences: range
    rows: range
    files: tuple[tuple[str, range], ...]


@dataclass(frozen=True)
class Job:
    """Everything that decides what the shards hold, except the model and what steers it.

    Attributes:
        sequences: at least one.
        layers: 0-based decoder blocks, ascending.
        d_model: width of the stream.
        dtype: in which rows are stored.
        shard_rows: most rows of a shard. chunk_tokens: most tokens of a chunk of more than one sequence.
    """

    sequences: tuple[TokenSequence, ...]
    layers: tuple[int, ...]
    d_model: int
    dtype: DtypeName
    shard_rows: int
    chunk_tokens: int

    @classmethod
    def bounded(
        cls, sequences: Sequence[TokenSequence], layers: Sequence[int], d_model: int, dtype: DtypeName = "fp32"
    ) -> Job:
        """A job whose shards and chunks have the usual bounds.

        Raises:
            DataError: no sequences or layers, or a dtype that is not known.
        """
        if dtype not in DTYPE_BYTES:
            raise DataError(f"dtype {dtype!r} is not known; wanted one of {', '.join(get_args(DtypeName))}.")
        if not sequences or not layers:
            raise DataError(f"nothing to collect: {len(sequences)} sequences and {len(layers)} layers came.")
        row = d_model * DTYPE_BYTES[dtype]
        shard_rows = max(1, min(LAYER_BYTES // row, SHARD_BYTES // (row * len(layers))))
        return cls(tuple(sequences), tuple(sorted(set(layers))), d_model, dtype, shard_rows, CHUNK_TOKENS)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Sequence i has the global rows ``offsets[i]`` to ``offsets[i + 1]``."""
        found = [0]
        for sequence in self.sequences:
            found.append(found[-1] + sequence.n_kept)
        return tuple(found)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the job as a file, in hex."""
        found = hashlib.sha256()
        for line in self._lines():
            found.update(line.encode())
        return found.hexdigest()

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The job in pieces, in order."""
        found: list[Chunk] = []
        first = rows = tokens = n_files = 0
        for i, sequence in enumerate(self.sequences):
            over = rows + sequence.n_kept > self.shard_rows or tokens + len(sequence.ids) > self.chunk_tokens
            if i > first and over:
                found.append(self._chunk(first, i, n_files))
                n_files += len(found[-1].files)
                first, rows, tokens = i, 0, 0
            rows, tokens = rows + sequence.n_kept, tokens + len(sequence.ids)
        return (*found, self._chunk(first, len(self.sequences), n_files))

    @property
    def row_bytes(self) -> int:
        """Disk space of one row at all layers."""
        return len(self.layers) * self.d_model * DTYPE_BYTES[self.dtype]

    def n_tokens(self, chunk: Chunk) -> int:
        """Tokens that are run for a chunk."""
        return sum(len(self.sequences[i].ids) for i in chunk.sequences)

    def kept(self, sequence: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Where the activations at positions ``[start, end)`` of a sequence go.

        Yields:
            First position, its global row, and how many follow one another.
        """
        row = self.offsets[sequence]
        for first, last in self.sequences[sequence].keep:
            begin, stop = max(first, start), min(last, end)
            if begin < stop:
                yield begin, row + begin - first, stop - begin
            row += last - first

    def write(self, path: Path) -> None:
        """Write the job as a file."""
        with path.open("w") as file:
            file.writelines(self._lines())

    def _lines(self) -> Iterator[str]:
        header = {
            "layers": self.layers, "d_model": self.d_model, "dtype": self.dtype, "shard_rows": self.shard_rows,
            "chunk_tokens": self.chunk_tokens, "n_sequences": len(self.sequences),
        }  # fmt: skip
        yield json.dumps(header) + "\n"
        for sequence in self.sequences:
            yield json.dumps({"ids": sequence.ids, "keep": sequence.keep}) + "\n"

    def _chunk(self, first: int, end: int, n_files: int) -> Chunk:
        rows = range(self.offsets[first], self.offsets[end])
        parts = [rows[i : i + self.shard_rows] for i in range(0, len(rows), self.shard_rows)] or [rows]
        files = tuple((f"shard-{n_files + i:05d}.safetensors", part) for i, part in enumerate(parts))
        return Chunk(range(first, end), rows, files)


def read_job(path: Path) -> Job:
    """Read a job back.

    Raises:
        DataError: the file is cut short or is no job; the message names it.
    """
    try:
        with path.open() as file:
            header: dict[str, Any] = json.loads(file.readline())
            lines = [json.loads(line) for line in file]
        n = header.pop("n_sequences")
        sequences = tuple(TokenSequence(tuple(x["ids"]), tuple((a, b) for a, b in x["keep"])) for x in lines)
        job = Job(sequences, **{**header, "layers": tuple(header["layers"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no job of activations to collect: {error}. Start the collection again.") from error
    if len(sequences) != n:
        raise DataError(f"{path} has {len(sequences)} sequences and promises {n}; start the collection again.")
    return job
