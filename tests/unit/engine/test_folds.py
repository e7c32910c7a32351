"""The fold states of all open requests against the reference, however tokens come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import monitor.engine.folds as folds_module
from monitor.engine.folds import Folds
from probes.errors import ShapeError
from probes.fold import fold_sequence
from probes.types import FoldKind, FoldSpec

N_REQUESTS, CAPACITY = 3, 5
ALL_KINDS = [FoldSpec(kind=kind, min_tokens=2) for kind in FoldKind]
SPECS = st.lists(
    st.builds(
        FoldSpec,
        kind=st.sampled_from(FoldKind),
        alpha=st.floats(0.05, 1.0),
        window=st.integers(1, 9),
        temperature=st.floats(0.5, 20),
        drift=st.floats(-5, 5),
        min_tokens=st.integers(1, 5),
    ),
    min_size=1,
    max_size=9,
)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], size: float, unscored: float) -> np.ndarray:
    """fp32 logits up to ``size``, a share of them NaN, and some columns NaN throughout."""
    found = rng.uniform(-size, size, shape).astype(np.float32)
    found[rng.random(shape) < unscored] = np.nan
    found[:, rng.random(shape[1]) < 0.1] = np.nan
    return found


def reference(specs: list[FoldSpec], scores: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """``(n_tokens, n_probes)`` of one request, all tokens at once."""
    columns = [
        fold_sequence(
            spec,
            torch.from_numpy(scores[:, i].copy()),
            torch.from_numpy(queries[:, i].copy()) if spec.kind is FoldKind.ATTENTION else None,
        ).numpy()
        for i, spec in enumerate(specs)
    ]
    return np.stack(columns, axis=1)


@given(SPECS, st.integers(0, 2**32), st.sampled_from([1.0, 20.0, 1e4]), st.sampled_from([0.0, 0.3, 0.9]), st.data())
@settings(max_examples=60, deadline=None)
def test_any_mixture_of_single_tokens_and_chunks_gives_the_numbers_of_the_reference(
    specs: list[FoldSpec], seed: int, size: float, unscored: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    folds = Folds(specs, CAPACITY)
    slots = rng.permutation(CAPACITY)[:N_REQUESTS]
    came: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(N_REQUESTS)]
    for step in data.draw(st.lists(st.one_of(st.just("decode"), st.integers(0, 70)), min_size=1, max_size=12)):
        who = rng.permutation(N_REQUESTS)[: rng.integers(1, N_REQUESTS + 1)]
        n = len(who) if step == "decode" else step
        scores, queries = (numbers(rng, (n, len(specs)), size, unscored) for _ in range(2))
        if step == "decode":
            values = folds.advance(slots[who], scores, queries)
            for row, request in enumerate(who):
                came[request].append((scores[row : row + 1], queries[row : row + 1], values[row : row + 1]))
        else:
            came[who[0]].append((scores, queries, folds.advance_chunk(int(slots[who[0]]), scores, queries)))
    for parts in filter(None, came):
        scores, queries, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        np.testing.assert_allclose(values, reference(specs, scores, queries), rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize("kind", FoldKind)
def test_thousands_of_single_tokens_do_not_drift_from_the_reference(kind: FoldKind) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3000, 1)).astype(np.float32)
    folds = Folds([FoldSpec(kind=kind, drift=0.1)], 1)
    values = np.concatenate([folds.advance(np.array([0]), token[None], token[None]) for token in scores])
    wanted = reference([FoldSpec(kind=kind, drift=0.1)], scores, scores)
    np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-9)


def test_a_reopened_slot_has_forgotten_the_request_before() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, len(ALL_KINDS))).astype(np.float32)
    folds = Folds(ALL_KINDS, 2)
    folds.advance_chunk(1, first, first)
    folds.open(1)
    np.testing.assert_allclose(folds.advance_chunk(1, second, second), reference(ALL_KINDS, second, second), rtol=1e-9)


def test_growing_doubles_the_room_and_keeps_every_state() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(9, len(ALL_KINDS))).astype(np.float32)
    folds = Folds(ALL_KINDS, 2)
    folds.advance_chunk(1, scores[:8], scores[:8])
    folds.grow()
    assert folds.capacity == 4
    values = folds.advance(np.array([3, 1]), np.stack([scores[0], scores[8]]), np.stack([scores[0], scores[8]]))
    np.testing.assert_allclose(values[1], reference(ALL_KINDS, scores, scores)[-1], rtol=1e-9)
    assert np.isnan(values[0]).all()  # slot 3 is fresh: one token of the two that are needed


def test_a_token_that_nobody_scored_returns_the_value_before_it() -> None:
    scores = np.full((3, len(ALL_KINDS)), 2.0, np.float32)
    folds = Folds(ALL_KINDS, 1)
    before = folds.advance_chunk(0, scores, scores)[-1]
    nothing = np.full((1, len(ALL_KINDS)), np.nan, np.float32)
    np.testing.assert_array_equal(folds.advance(np.array([0]), nothing, nothing)[0], before)
    np.testing.assert_array_equal(folds.advance_chunk(0, nothing, nothing)[0], before)
    assert np.isfinite(before).all()


def test_an_error_within_a_chunk_leaves_every_probe_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, len(ALL_KINDS))).astype(np.float32)
    folds = Folds(ALL_KINDS, 1)
    folds.advance_chunk(0, scores[:4], scores[:4])
    original, calls = folds_module.update, []

    def fail_at_the_last(*args: object) -> object:
        calls.append(args)
        if len(calls) == len(ALL_KINDS):
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(folds_module, "update", fail_at_the_last)
    with pytest.raises(MemoryError):
        folds.advance_chunk(0, scores[:3], scores[:3])
    monkeypatch.undo()
    values = folds.advance_chunk(0, scores[4:], scores[4:])
    np.testing.assert_allclose(values, reference(ALL_KINDS, scores, scores)[4:], rtol=1e-9)


@pytest.mark.parametrize("scores", [1e4, -1e4])
def test_extreme_scores_stay_finite_token_by_token(scores: float) -> None:
    folds = Folds([FoldSpec(kind=kind) for kind in FoldKind], 1)
    for value in (scores, -scores, scores):
        token = np.full((1, len(FoldKind)), value, np.float32)
        assert np.isfinite(folds.advance(np.array([0]), token, token)).all()


def test_scores_of_the_wrong_shape_are_refused_naming_both_shapes() -> None:
    folds = Folds([FoldSpec(kind=FoldKind.MAX)] * 3, 2)
    with pytest.raises(ShapeError, match=r"scores \(2, 1\) came; wanted \(2, 3\)"):
        folds.advance(np.array([0, 1]), np.zeros((2, 1), np.float32))
    with pytest.raises(ShapeError, match=r"scores \(4, 2\) came; wanted \(4, 3\)"):
        folds.advance_chunk(0, np.zeros((4, 2), np.float32))


def test_attention_without_fitting_queries_is_refused_saying_what_came() -> None:
    folds = Folds([FoldSpec(kind=FoldKind.MAX), FoldSpec(kind=FoldKind.ATTENTION)], 2)
    with pytest.raises(ShapeError, match=r"no queries came; wanted \(1, 2\)"):
        folds.advance(np.array([0]), np.zeros((1, 2), np.float32))
    with pytest.raises(ShapeError, match=r"queries \(3, 1\) came; wanted \(3, 2\)"):
        folds.advance_chunk(0, np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32))


def test_without_attention_queries_are_not_needed() -> None:
    folds = Folds([FoldSpec(kind=FoldKind.MEAN), FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX, window=2)], 1)
    folds.advance(np.array([0]), np.array([[1.0, 4.0]], np.float32))
    values = folds.advance(np.array([0]), np.array([[2.0, 1.0]], np.float32))
    assert values.tolist() == [[1.5, 4.0]]


def test_a_bundle_without_probes_has_nothing_to_fold() -> None:
    folds = Folds([], 2)
    assert folds.advance(np.array([0, 1]), np.zeros((2, 0), np.float32)).shape == (2, 0)
    assert folds.advance_chunk(0, np.zeros((5, 0), np.float32)).shape == (5, 0)


def test_a_score_is_kept_exactly_by_the_folds_that_only_choose_one() -> None:
    folds = Folds([FoldSpec(kind=FoldKind.LAST), FoldSpec(kind=FoldKind.MAX)], 1)
    tiny = np.float32(1e-30)
    folds.advance(np.array([0]), np.array([[1e4, -1e4]], np.float32))
    assert folds.advance(np.array([0]), np.array([[tiny, tiny]])).tolist() == [[float(tiny), float(tiny)]]


def test_a_rolling_window_does_not_move_over_a_token_that_only_others_scored() -> None:
    folds = Folds([FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX, window=2)], 2)
    slots = np.array([0, 1])
    for token in ([-4.0, -1.0], [np.nan, -1.0], [-4.0, -1.0]):
        values = folds.advance(slots, np.array(token, np.float32)[:, None])
    assert values.tolist() == [[-4.0], [-1.0]]  # a gap that counted as 0 would give -2
