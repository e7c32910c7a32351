"""Sequence probes: learned through the fold that serves them, on sequences of any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from estimator_contract import contract, spoken
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from probes.fold import fold_sequence
from probes.train.estimators import AttentionProbe, MultiHeadMaxProbe, SoftmaxProbe
from probes.train.estimators.sequences import Sequences

D = 5
PROBES = [SoftmaxProbe(epochs=30, lr=0.05), AttentionProbe(epochs=30, lr=0.05), MultiHeadMaxProbe(epochs=30, lr=0.05)]
EXEMPT = {
    "check_sample_weight_equivalence_on_dense_data": "rows are drawn into steps and held out by number",
}


def make(seed: int, n: int = 80, longest: int = 9) -> tuple[list[np.ndarray], np.ndarray]:
    """A positive has one token, anywhere, that is shifted along axis 0."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = [rng.normal(size=(rng.integers(1, longest + 1), D)).astype(np.float32) for _ in range(n)]
    for sequence, label in zip(x, y, strict=True):
        sequence[rng.integers(len(sequence)), 0] += 6.0 * label
    return x, y


# The three differ in their fold only; the one with two columns stands for all.
@pytest.mark.parametrize(("estimator", "check"), list(contract(AttentionProbe(epochs=30, lr=0.05), EXEMPT)), ids=spoken)
def test_the_estimator_contract_holds_where_each_row_is_a_sequence(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_one_token_among_many_is_found(probe: Any) -> None:
    x, y = make(0, n=240)
    probe = clone(probe).set_params(epochs=200).fit(x, y)
    fresh, labels = make(1, n=200)
    assert probe.score(fresh, labels) > 0.85


@given(st.integers(0, 1000), st.integers(1, 30))
@settings(max_examples=12, deadline=None)
def test_the_logit_is_the_engines_streaming_fold_at_the_last_token(seed: int, longest: int) -> None:
    x, y = make(seed, n=10, longest=longest)
    softmax = SoftmaxProbe(epochs=2, temperature=0.5 + seed % 7, random_state=seed).fit(x, y)
    attention = AttentionProbe(epochs=2, random_state=seed).fit(x, y)
    for probe in (softmax, attention):
        weights, bias = probe.linear()
        query = probe.query_.astype(np.float32) if probe is attention else None
        for sequence, logit in zip(x, probe.decision_function(x), strict=True):
            scores = torch.from_numpy(sequence @ weights + np.float32(bias))
            queries = None if query is None else torch.from_numpy(sequence @ query)
            assert fold_sequence(probe.fold_spec(), scores, queries)[-1].item() == pytest.approx(logit, abs=1e-4)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_a_logit_does_not_depend_on_what_else_is_in_the_batch(probe: Any) -> None:
    x, y = make(2)
    probe = clone(probe).fit(x, y)
    alone = np.concatenate([probe.decision_function([s]) for s in x])
    long = [*x, np.zeros((50, D), dtype=np.float32)]
    np.testing.assert_allclose(probe.decision_function(long)[:-1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_lists_and_offsets_are_the_same_sequences(probe: Any) -> None:
    x, y = make(3)
    packed = (np.concatenate(x), np.cumsum([0, *map(len, x)]))
    by_list, by_offsets = clone(probe).fit(x, y), clone(probe).fit(packed, y)
    np.testing.assert_array_equal(by_list.columns_, by_offsets.columns_)
    np.testing.assert_array_equal(by_list.decision_function(x), by_list.decision_function(packed))


def test_learning_stops_where_the_given_validation_stops_improving() -> None:
    x, y = make(4)
    shuffled = np.random.default_rng(0).permutation(y)
    probe = SoftmaxProbe(lr=0.05, epochs=500, patience=5).fit(x, y, validation=(x, shuffled))
    assert probe.n_iter_ < 100
    kept = SoftmaxProbe(lr=0.05, epochs=500, patience=5).fit(x, y, validation=(x, y))
    assert kept.validation_loss_ < probe.validation_loss_


def test_of_several_starts_the_one_with_the_lowest_held_out_loss_is_kept() -> None:
    x, y = make(5)
    one = MultiHeadMaxProbe(n_heads=2, epochs=15).fit(x, y)
    many = MultiHeadMaxProbe(n_heads=2, epochs=15, n_init=4).fit(x, y)
    assert many.validation_loss_ <= one.validation_loss_


def test_sequences_without_tokens_and_offsets_that_do_not_fit_are_refused() -> None:
    x, y = make(6, n=4)
    packed = np.concatenate(x)
    for offsets in ([0, 1, 1, 2, len(packed)], [0, 1, 2, 3, len(packed) + 1], [1, 2, 3, 4, len(packed)]):
        with pytest.raises(ValueError, match="offsets run from"):
            SoftmaxProbe().fit((packed, np.array(offsets)), y)


def test_taking_sequences_keeps_their_tokens_and_order() -> None:
    x, _ = make(7, n=6)
    packed = Sequences(torch.from_numpy(np.concatenate(x)), torch.tensor([0, *map(len, x)]).cumsum(0))
    taken = packed.take(torch.tensor([4, 0, 4]))
    assert taken.offsets.diff().tolist() == [len(x[4]), len(x[0]), len(x[4])]
    np.testing.assert_array_equal(taken.values.numpy(), np.concatenate([x[4], x[0], x[4]]))
