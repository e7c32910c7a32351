"""The folds against a plain Python loop, by hand, and under any chunking."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from probes.errors import ShapeError
from probes.fold import fold_sequence, init_state, state_width, update
from probes.types import FoldKind, FoldSpec

NUMBER = st.one_of(st.just(math.nan), st.floats(-20, 20, width=32))
TOKENS = st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=150)  # score and query
SPECS = st.builds(
    FoldSpec,
    kind=st.sampled_from(FoldKind),
    alpha=st.floats(0.05, 1.0),
    window=st.integers(1, 9),
    temperature=st.floats(0.5, 20),
    drift=st.floats(-5, 5),
    min_tokens=st.integers(1, 5),
)


def split(spec: FoldSpec, tokens: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scores ``(n_tokens,)``, and queries where the fold takes them."""
    both = torch.tensor(tokens).reshape(-1, 2)
    return both[:, 0], both[:, 1] if spec.kind is FoldKind.ATTENTION else None


def line(values: torch.Tensor | None, start: int, stop: int) -> torch.Tensor | None:
    return None if values is None else values[None, start:stop]


def weighted(scores: list[float], log_weights: list[float]) -> float:
    top = max(log_weights)
    weights = [math.exp(a - top) for a in log_weights]
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)


def naive(spec: FoldSpec, scores: torch.Tensor, queries: torch.Tensor | None) -> list[float]:
    """The formulas of the module, one token at a time."""
    seen: list[float] = []
    asked: list[float] = []
    ema = best_ema = best_roll = best_sum = -math.inf
    raised = 0.0
    out = []
    for score, query in zip(scores.tolist(), (scores if queries is None else queries).tolist(), strict=True):
        if not math.isnan(score + query):
            seen.append(score)
            asked.append(query)
            raised = max(0.0, raised + score - spec.drift)
            best_sum = max(best_sum, raised)
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
                FoldKind.SOFTMAX: weighted(seen, [s / spec.temperature for s in seen]),
                FoldKind.ATTENTION: weighted(seen, asked),
                FoldKind.CUSUM: best_sum,
            }[spec.kind]
        )
    return out


@given(SPECS, TOKENS)
@settings(max_examples=200, deadline=None)
def test_every_fold_equals_a_plain_loop_over_the_tokens(spec: FoldSpec, tokens: list[tuple[float, float]]) -> None:
    scores, queries = split(spec, tokens)
    wanted = torch.tensor(naive(spec, scores, queries), dtype=torch.float64)
    torch.testing.assert_close(fold_sequence(spec, scores, queries), wanted, equal_nan=True)


@given(SPECS, TOKENS, st.data())
@settings(max_examples=200, deadline=None)
def test_any_chunking_gives_the_same_numbers(
    spec: FoldSpec, tokens: list[tuple[float, float]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=6)))
    scores, queries = split(spec, tokens)
    state, parts = init_state(spec, 1), []
    for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        folded, state = update(spec, state, scores[None, start:stop], line(queries, start, stop))
        parts.append(folded[0])
    torch.testing.assert_close(torch.cat(parts), fold_sequence(spec, scores, queries), equal_nan=True)


@given(SPECS, st.lists(TOKENS, min_size=2, max_size=4))
@settings(max_examples=60, deadline=None)
def test_padding_and_neighbours_in_the_batch_change_nothing(
    spec: FoldSpec, rows: list[list[tuple[float, float]]]
) -> None:
    width = max(map(len, rows))
    both = torch.tensor([row + [(math.nan, math.nan)] * (width - len(row)) for row in rows])
    queries = both[..., 1] if spec.kind is FoldKind.ATTENTION else None
    folded, _ = update(spec, init_state(spec, len(rows)), both[..., 0], queries)
    for row, got in zip(rows, folded, strict=True):
        alone = fold_sequence(spec, *split(spec, row))
        torch.testing.assert_close(got[: len(row)], alone, equal_nan=True)
        torch.testing.assert_close(got[-1], alone[-1], equal_nan=True)


def test_softmax_by_hand() -> None:
    spec = FoldSpec(kind=FoldKind.SOFTMAX, temperature=2.0)
    folded = fold_sequence(spec, torch.tensor([0.0, math.nan, 2 * math.log(3), 0.0], dtype=torch.float64))
    high = 2 * math.log(3)  # weighs exp(log 3) = 3, the zeros weigh 1 each
    wanted = torch.tensor([0.0, 0.0, 3 * high / 4, 3 * high / 5], dtype=torch.float64)
    torch.testing.assert_close(folded, wanted)


def test_attention_by_hand() -> None:
    spec = FoldSpec(kind=FoldKind.ATTENTION)
    scores = torch.tensor([1.0, -5.0, 9.0, 2.0], dtype=torch.float64)
    queries = torch.tensor([0.0, math.log(2), math.nan, math.log(5)], dtype=torch.float64)
    folded = fold_sequence(spec, scores, queries)  # the third token has no query: unscored
    wanted = torch.tensor([1.0, (1 - 10) / 3, (1 - 10) / 3, (1 - 10 + 10) / 8], dtype=torch.float64)
    torch.testing.assert_close(folded, wanted)


def test_attention_is_blind_to_a_constant_added_to_every_query() -> None:
    spec, scores, queries = FoldSpec(kind=FoldKind.ATTENTION), torch.randn(40), torch.randn(40)
    shifted = fold_sequence(spec, scores, queries.double() + 700)
    torch.testing.assert_close(shifted, fold_sequence(spec, scores, queries))


def test_cusum_by_hand() -> None:
    spec = FoldSpec(kind=FoldKind.CUSUM, drift=1.0)
    folded = fold_sequence(spec, torch.tensor([-3.0, 3.0, math.nan, 4.0, -9.0, 2.0, 7.0]))
    # g: 0, 2, (unscored), 5, 0, 1, 7
    assert folded.tolist() == [0.0, 2.0, 2.0, 5.0, 5.0, 5.0, 7.0]


@pytest.mark.parametrize("kind", [FoldKind.SOFTMAX, FoldKind.ATTENTION])
@pytest.mark.parametrize("scores", [[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4], [-1e4] * 300, [1e4] * 300])
def test_extreme_scores_give_a_finite_mean_within_their_range(kind: FoldKind, scores: list[float]) -> None:
    numbers = torch.tensor(scores)
    folded = fold_sequence(FoldSpec(kind=kind), numbers, numbers if kind is FoldKind.ATTENTION else None)
    torch.testing.assert_close(folded, numbers.double().cummax(0).values)


@pytest.mark.parametrize("kind", FoldKind)
def test_unscored_tokens_alone_are_never_a_number(kind: FoldKind) -> None:
    spec = FoldSpec(kind=kind)
    assert fold_sequence(spec, *split(spec, [(math.nan, math.nan)] * 5)).isnan().all()


@pytest.mark.parametrize("kind", FoldKind)
def test_the_callers_state_is_left_alone(kind: FoldKind) -> None:
    spec = FoldSpec(kind=kind)
    state = init_state(spec, 2)
    update(spec, state, torch.randn(2, 7), torch.randn(2, 7) if kind is FoldKind.ATTENTION else None)
    assert (state == 0).all()
    assert state.shape == (2, state_width(spec))


def test_a_state_of_another_fold_is_refused_naming_both_shapes() -> None:
    state = init_state(FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX), 2)
    with pytest.raises(ShapeError, match=r"\(2, 5\).*\(2, 3\)"):
        update(FoldSpec(kind=FoldKind.MAX), state, torch.randn(2, 3))


def test_attention_without_queries_of_its_shape_is_refused() -> None:
    spec = FoldSpec(kind=FoldKind.ATTENTION)
    with pytest.raises(ShapeError, match=r"queries are missing under attention: wanted \(2, 3\)"):
        update(spec, init_state(spec, 2), torch.randn(2, 3))
    with pytest.raises(ShapeError, match=r"queries \(2, 1\) under attention: wanted \(2, 3\)"):
        update(spec, init_state(spec, 2), torch.randn(2, 3), torch.randn(2, 1))


@pytest.mark.parametrize("kind", [kind for kind in FoldKind if kind is not FoldKind.ATTENTION])
def test_queries_for_a_fold_that_takes_none_are_refused(kind: FoldKind) -> None:
    spec = FoldSpec(kind=kind)
    with pytest.raises(ShapeError, match=rf"queries \(2, 3\) under {kind}: wanted none"):
        update(spec, init_state(spec, 2), torch.randn(2, 3), torch.randn(2, 3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-300, math.inf, math.nan])
def test_a_temperature_that_cannot_be_divided_by_is_refused(temperature: float) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        FoldSpec(kind=FoldKind.SOFTMAX, temperature=temperature)
