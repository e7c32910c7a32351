"""A job's rows are all in its shards, each once, however it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.activations.job import Job, TokenSequence, read_job
from probes.errors import DataError


@st.composite
def sequences(draw: st.DrawFn) -> TokenSequence:
    n = draw(st.integers(1, 30))
    cuts = draw(st.lists(st.integers(0, n), unique=True, max_size=6).map(sorted))
    return TokenSequence(tuple(range(n)), tuple(zip(cuts[::2], cuts[1::2], strict=False)))


lists = st.lists(sequences(), min_size=1, max_size=12)


def brute_force(job: Job) -> list[tuple[int, int]]:
    """Sequence and position of every global row."""
    return [(i, p) for i, s in enumerate(job.sequences) for a, b in s.keep for p in range(a, b)]


@settings(max_examples=50)
@given(lists, st.integers(1, 20), st.integers(1, 60))
def test_the_shards_hold_every_row_once_in_order_and_none_is_too_large(
    found: list[TokenSequence], shard_rows: int, chunk_tokens: int
) -> None:
    job = Job(tuple(found), (0,), 4, "fp32", shard_rows, chunk_tokens)
    files = [f for chunk in job.chunks for f in chunk.files]
    assert [row for _, part in files for row in part] == list(range(len(brute_force(job))))
    assert [i for chunk in job.chunks for i in chunk.sequences] == list(range(len(found)))
    assert len({name for name, _ in files}) == len(files)
    assert [name for name, _ in files] == sorted(name for name, _ in files)
    assert max(len(part) for _, part in files) <= shard_rows
    assert all(job.n_tokens(c) <= chunk_tokens or len(c.sequences) == 1 for c in job.chunks)


@settings(max_examples=50)
@given(lists, st.data())
def test_a_stretch_of_a_sequence_goes_where_its_positions_belong(
    found: list[TokenSequence], data: st.DataObject
) -> None:
    job = Job(tuple(found), (0,), 4, "fp32", 10, 100)
    i = data.draw(st.integers(0, len(found) - 1))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(found[i].ids))] * 2)))
    placed = [(p + k, row + k) for p, row, n in job.kept(i, start, end) for k in range(n)]
    rows = {place: row for row, place in enumerate(brute_force(job))}
    assert placed == [(p, rows[i, p]) for p in range(start, end) if (i, p) in rows]


@settings(max_examples=30)
@given(found=lists)
def test_a_job_that_is_written_and_read_back_is_the_same(
    found: list[TokenSequence], tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = Job.bounded(found, [1, 0], 4, "bf16")
    path = tmp_path_factory.mktemp("job") / "job.jsonl"
    job.write(path)
    again = read_job(path)
    assert (again, again.digest) == (job, job.digest)
    assert Job.bounded(found, [0], 4, "bf16").digest != job.digest


def test_a_shard_is_bounded_by_layer_and_in_all() -> None:
    def shard_rows(n_layers: int, d_model: int, dtype: Any) -> int:
        return Job.bounded([TokenSequence((1,), ((0, 1),))], range(n_layers), d_model, dtype).shard_rows

    assert shard_rows(1, 4096, "fp32") * 4096 * 4 == 64 * 2**20
    assert shard_rows(1, 4096, "bf16") == 2 * shard_rows(1, 4096, "fp32")
    assert shard_rows(32, 4096, "fp32") * 32 * 4096 * 4 == 256 * 2**20


def test_a_job_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    job = Job.bounded([TokenSequence((1, 2), ((0, 1),))] * 3, [0], 4)
    job.write(tmp_path / "job.jsonl")
    lines = (tmp_path / "job.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "job.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="has 2 sequences and promises 3"):
        read_job(tmp_path / "job.jsonl")
    (tmp_path / "job.jsonl").write_text("".join(lines)[:-9])
    with pytest.raises(DataError, match=r"is no job of activations to collect.*Start the collection again"):
        read_job(tmp_path / "job.jsonl")


NOTHING = r"nothing to collect: \d sequences and \d layers"


@pytest.mark.parametrize(
    ("n_sequences", "layers", "dtype", "message"),
    [
        (0, [0], "fp32", NOTHING),
        (1, [], "fp32", NOTHING),
        (1, [0], "int8", "dtype 'int8' is not known; wanted one of fp32, bf16, fp16"),
    ],
)
def test_a_job_of_nothing_or_of_an_unknown_dtype_is_refused(
    n_sequences: int, layers: list[int], dtype: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Job.bounded([TokenSequence((1,), ((0, 1),))] * n_sequences, layers, 4, dtype)
