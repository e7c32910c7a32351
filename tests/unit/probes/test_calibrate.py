"""Thresholds, probabilities and figures, against their definitions and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import roc_auc_score

from probes.errors import DataError
from probes.train.calibrate import platt, reference_histogram, set_threshold, threshold_value
from probes.train.metrics import auroc, rate_at, separation
from probes.train.statistic import never_trips, statistics
from probes.types import FoldKind, FoldSpec, Scope

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=200).map(np.array)


@given(SCORES, st.sampled_from([0.01, 0.05, 0.1, 0.3]))
@settings(deadline=None)
def test_a_thresholds_false_positive_rate_never_exceeds_what_was_allowed(negatives: np.ndarray, fpr: float) -> None:
    assert (negatives >= threshold_value(negatives, fpr)).mean() <= fpr


@given(SCORES, st.sampled_from([0.01, 0.05, 0.1, 0.3]))
@settings(deadline=None)
def test_no_smaller_threshold_would_do(negatives: np.ndarray, fpr: float) -> None:
    smaller = math.nextafter(threshold_value(negatives, fpr), -math.inf)
    assert (negatives >= smaller).mean() > fpr


def test_a_threshold_on_too_few_negatives_is_refused_naming_what_would_do() -> None:
    with pytest.raises(DataError, match=r"needs 300 negatives in validation; there are 299.*--fpr 0\.01"):
        set_threshold(np.zeros(299), 0.01, "validation")
    assert set_threshold(np.arange(300.0), 0.01, "validation").measured_fpr == pytest.approx(0.01)


@given(st.integers(0, 2**31), st.integers(20, 200))
@settings(max_examples=15, deadline=None)
def test_platt_scaling_agrees_with_scikit_learns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(np.int64)
    scores = rng.normal(size=n) * 4 + labels * rng.uniform(0, 12) + rng.normal() * 10
    mine = platt(scores, labels)
    theirs = _SigmoidCalibration().fit(scores, labels)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-(mine.slope * scores + mine.intercept))), theirs.predict(scores), atol=2e-3
    )


def test_separable_scores_give_a_finite_slope() -> None:
    calibration = platt(np.array([-3.0, -2, 2, 3]), np.array([0, 0, 1, 1]))
    assert 0 < calibration.slope < 10


@given(st.lists(st.tuples(st.integers(-3, 3).map(float), st.integers(0, 1)), min_size=2, max_size=100))
@settings(deadline=None)
def test_auroc_agrees_with_scikit_learn_ties_included(pairs: list[tuple[float, int]]) -> None:
    scores, labels = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    if len(set(labels.tolist())) == 2:
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_an_unscored_example_ranks_below_every_scored_one_and_never_trips() -> None:
    values = never_trips(np.array([np.nan, -50.0]))
    assert rate_at(values, -1e300) == 0.5
    assert auroc(values, np.array([0, 1])) == 1.0


def test_separation_counts_standard_deviations() -> None:
    labels = np.arange(10_000) % 2
    scores = np.random.default_rng(0).normal(size=10_000) * 2 + labels * 6
    assert separation(scores, labels) == pytest.approx(3.0, rel=0.05)


def test_the_reference_histogram_counts_every_negative_once() -> None:
    negatives = np.random.default_rng(0).normal(size=500)
    histogram = reference_histogram(negatives)
    assert sum(histogram.counts) == 500
    assert len(histogram.edges) == len(histogram.counts) + 1
    assert max(histogram.counts) <= 2 * min(histogram.counts)
    assert sum(reference_histogram(np.ones(7)).counts) == 7


OFFSETS = torch.tensor([0, 2, 6, 7])
TOKENS = torch.tensor([1.0, -1.0, 0.0, 8.0, 2.0, -6.0, 3.0])


def test_a_prompt_is_judged_once_after_its_last_token() -> None:
    found = statistics(TOKENS, OFFSETS, FoldSpec(kind=FoldKind.MEAN), Scope.LAST_USER)
    np.testing.assert_allclose(found, [0.0, 1.0, 3.0])


def test_a_response_is_judged_by_the_highest_fold_at_any_of_its_tokens() -> None:
    found = statistics(TOKENS, OFFSETS, FoldSpec(kind=FoldKind.MEAN), Scope.RESPONSE)
    np.testing.assert_allclose(found, [1.0, 4.0, 3.0])


def test_a_response_shorter_than_the_fold_needs_is_unscored() -> None:
    found = statistics(TOKENS, OFFSETS, FoldSpec(kind=FoldKind.MEAN, min_tokens=3), Scope.RESPONSE)
    np.testing.assert_allclose(found, [np.nan, 10 / 3, np.nan])
