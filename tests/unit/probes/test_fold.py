"""The folds against a plain Python loop, and under any chunking."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import ShapeError
from probes.fold import fold_sequence, init_state, state_width, update
from probes.types import FoldKind, FoldSpec

SCORES = st.lists(st.one_of(st.just(math.nan), st.floats(-20, 20, width=32)), min_size=1, max_size=150)
SPECS = st.builds(
    FoldSpec,
    kind=st.sampled_from(FoldKind),
    alpha=st.floats(0.05, 1.0),
    window=st.integers(1, 9),
    min_tokens=st.integers(1, 5),
)


def naive(spec: FoldSpec, scores: list[float]) -> list[float]:
    """The formulas of the module, one token at a time."""
    seen: list[float] = []
    ema = best_ema = best_roll = -math.inf
    out = []
    for score in scores:
        if not math.isnan(score):
            seen.append(score)
            ema = score if len(seen) == 1 else spec.alpha * score + (1 - spec.alpha) * ema
            best_ema = max(best_ema, ema)
            tail = seen[-spec.window :]
            best_roll = max(best_roll, sum(tail) / len(tail))
        if len(seen) < spec.min_tokens:
            out.append(math.nan)
            continue
        out.append(
            {
                FoldKind.LAST: seen[-1],
                FoldKind.MEAN: sum(seen) / len(seen),
                FoldKind.MAX: max(seen),
                FoldKind.EMA_MAX: best_ema,
                FoldKind.ROLLING_MEAN_MAX: best_roll,
            }[spec.kind]
        )
    return out


@given(SPECS, SCORES)
@settings(max_examples=150, deadline=None)
def test_every_fold_equals_a_plain_loop_over_the_tokens(spec: FoldSpec, scores: list[float]) -> None:
    folded = fold_sequence(spec, torch.tensor(scores))
    torch.testing.assert_close(
        folded, torch.tensor(naive(spec, torch.tensor(scores).tolist()), dtype=torch.float64), equal_nan=True
    )


@given(SPECS, SCORES, st.data())
@settings(max_examples=150, deadline=None)
def test_any_chunking_gives_the_same_numbers(spec: FoldSpec, scores: list[float], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=6)))
    whole = fold_sequence(spec, torch.tensor(scores))
    state, parts = init_state(spec, 1), []
    for start, stop in zip([0, *cuts], [*cuts, len(scores)], strict=True):
        folded, state = update(spec, state, torch.tensor(scores[start:stop])[None])
        parts.append(folded[0])
    torch.testing.assert_close(torch.cat(parts), whole, equal_nan=True)


@given(SPECS, st.lists(SCORES, min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_padding_and_neighbours_in_the_batch_change_nothing(spec: FoldSpec, rows: list[list[float]]) -> None:
    width = max(map(len, rows))
    batch = torch.tensor([row + [math.nan] * (width - len(row)) for row in rows])
    folded, _ = update(spec, init_state(spec, len(rows)), batch)
    for row, got in zip(rows, folded, strict=True):
        alone = fold_sequence(spec, torch.tensor(row))
        torch.testing.assert_close(got[: len(row)], alone, equal_nan=True)
        torch.testing.assert_close(got[-1], alone[-1], equal_nan=True)


@pytest.mark.parametrize("kind", FoldKind)
def test_unscored_tokens_alone_are_never_a_number(kind: FoldKind) -> None:
    folded = fold_sequence(FoldSpec(kind=kind), torch.full((5,), math.nan))
    assert folded.isnan().all()


@pytest.mark.parametrize("kind", FoldKind)
def test_the_callers_state_is_left_alone(kind: FoldKind) -> None:
    spec = FoldSpec(kind=kind)
    state = init_state(spec, 2)
    update(spec, state, torch.randn(2, 7))
    assert (state == 0).all()
    assert state.shape == (2, state_width(spec))


def test_a_state_of_another_fold_is_refused_naming_both_shapes() -> None:
    state = init_state(FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX), 2)
    with pytest.raises(ShapeError, match=r"\(2, 5\).*\(2, 3\)"):
        update(FoldSpec(kind=FoldKind.MAX), state, torch.randn(2, 3))
