"""Whatever an engine does with a prompt on its way, each of its rows arrives in its place."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.engine.collect import Collector
from probes.activations.job import Job, TokenSequence
from probes.activations.shards import Piece, ShardWriter, read_batches

D = 4
ODD, ALL, LAST, NONE = ((1, 2), (3, 4)), ((0, 5),), ((4, 5),), ()
JOB = Job(
    tuple(TokenSequence((7,) * 5, keep) for keep in (ODD, ALL, LAST, NONE, ALL, ODD)), (0, 2), D, "fp32", 3, 12
)  # fmt: skip


def value(layer: int, sequence: int, position: int) -> list[float]:
    return [100.0 * layer + 10.0 * sequence + position] * D


def step(pieces: list[Piece]) -> dict[int, torch.Tensor]:
    """The streams of a step in which these stretches run."""
    return {
        layer: torch.tensor([value(layer, i, p) for i, start, end, _ in pieces for p in range(start, end)])
        for layer in JOB.layers
    }


@st.composite
def histories(draw: st.DrawFn) -> list[list[Piece]]:
    """Prompts in chunks of any size, side by side, one of them begun anew after it was preempted."""
    todo = {i: [(0, 5)] for i, s in enumerate(JOB.sequences) if s.keep}
    preempted, cut = draw(st.sampled_from(sorted(todo))), draw(st.integers(1, 4))
    todo[preempted] = [(0, cut), (0, 5)]
    steps = []
    while todo:
        pieces: list[Piece] = []
        row = 0
        for i in draw(st.lists(st.sampled_from(sorted(todo)), unique=True, min_size=1)):
            start, end = todo[i][0]
            stop = draw(st.integers(start + 1, end))
            pieces.append((i, start, stop, row))
            row += stop - start
            todo[i][0] = (stop, end)
            if stop == end:
                todo[i].pop(0)
            if not todo[i]:
                del todo[i]
        steps.append(pieces)
    return steps


@settings(deadline=None, max_examples=15)
@given(history=histories())
def test_chunked_mixed_and_preempted_prompts_leave_the_rows_of_whole_ones(
    history: list[list[Piece]], tmp_path_factory
) -> None:
    writer = ShardWriter(tmp_path_factory.mktemp("shards"), JOB)
    collector = Collector(JOB, writer)
    for pieces in history:
        collector.take(pieces, step(pieces))
    wanted = [(i, p) for i, s in enumerate(JOB.sequences) for a, b in s.keep for p in range(a, b)]
    for layer in JOB.layers:
        ((_, found),) = read_batches(writer.paths, layer, len(wanted), 10**6)
        assert found.tolist() == [value(layer, i, p) for i, p in wanted]


def test_a_step_is_resumed_from_the_shards_that_are_there(tmp_path: Path) -> None:
    everything: list[Piece] = [(i, 0, 5, 5 * k) for k, i in enumerate(i for i, s in enumerate(JOB.sequences) if s.keep)]
    Collector(JOB, ShardWriter(tmp_path, JOB)).take(everything, step(everything))
    assert not ShardWriter(tmp_path, JOB).missing
    (tmp_path / JOB.chunks[1].files[0][0]).unlink()
    assert ShardWriter(tmp_path, JOB).missing == (JOB.chunks[1],)
