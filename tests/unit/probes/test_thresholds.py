"""Thresholds with a guarantee, and probabilities by sample size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import beta, binomtest
from sklearn.isotonic import IsotonicRegression

from probes.errors import DataError
from probes.train.calibrate import (
    ISOTONIC_FROM,
    calibrate,
    conformal_threshold,
    fpr_bound,
    platt,
    set_threshold,
    set_thresholds,
    threshold_value,
)
from probes.types import Calibration

RATES = st.sampled_from([0.01, 0.05, 0.1, 0.3])


@given(st.integers(1, 120), RATES)
@settings(max_examples=12, deadline=None)
def test_a_new_negative_trips_a_conformal_threshold_with_the_allowed_probability(n: int, fpr: float) -> None:
    if n < 1 / fpr - 1 - 1e-9:
        with pytest.raises(DataError, match="needs"):
            conformal_threshold(np.arange(float(n)), fpr, "validation")
        return
    # Exchangeable: each of n + 1 different scores is equally often the new one. Count exactly how often it trips.
    pool = np.arange(n + 1.0)
    trips = sum(new >= conformal_threshold(np.delete(pool, i), fpr, "v").value for i, new in enumerate(pool))
    assert trips / (n + 1) <= fpr + 1e-12
    assert (trips + 1) / (n + 1) > fpr  # and no more cautious than it has to be


@given(st.lists(st.integers(0, 5).map(float), min_size=20, max_size=30), st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=15, deadline=None)
def test_ties_do_not_break_the_conformal_guarantee(values: list[float], fpr: float) -> None:
    pool = np.array(values)
    trips = sum(new >= conformal_threshold(np.delete(pool, i), fpr, "v").value for i, new in enumerate(pool))
    assert trips / len(pool) <= fpr + 1e-12


def test_a_conformal_threshold_lies_just_above_the_stated_order_statistic() -> None:
    negatives = np.random.default_rng(0).permutation(np.arange(1, 1001.0))
    found = conformal_threshold(negatives, 0.01, "validation")
    assert found.value == math.nextafter(991.0, math.inf)  # ceil(1001 * 0.99) = 991
    assert (found.method, found.measured_fpr, found.n_negatives) == ("conformal", 0.009, 1000)


def test_a_conformal_threshold_on_too_few_negatives_is_refused_naming_what_would_do() -> None:
    with pytest.raises(DataError, match=r"needs 99 negatives in validation; there are 98.*--fpr 0\.011"):
        conformal_threshold(np.arange(98.0), 0.01, "validation")
    assert conformal_threshold(np.arange(99.0), 0.01, "validation").measured_fpr == 0
    assert conformal_threshold(np.arange(98.0), 0.011, "validation").measured_fpr == 0


def test_the_rate_that_a_refusal_advises_is_accepted() -> None:
    for n in (4, 7, 59, 299, 2999):
        with pytest.raises(DataError) as refused:
            set_threshold(np.arange(float(n)), 3 / (n + 1), "validation")
        advised = float(str(refused.value).split("--fpr ")[1].split(" ")[0])
        assert set_threshold(np.arange(float(n)), advised, "validation").fpr == advised < 1
    with pytest.raises(DataError, match=r"Label more negatives\.$"):
        set_threshold(np.arange(2.0), 0.5, "validation")


def test_each_rate_gets_an_empirical_threshold_and_then_a_conformal_one_that_is_no_lower() -> None:
    negatives = np.random.default_rng(0).normal(size=500)
    found = set_thresholds(negatives, (0.1, 0.01), "validation")
    assert [(t.method, t.fpr) for t in found] == [
        ("empirical", 0.1), ("empirical", 0.01), ("conformal", 0.1), ("conformal", 0.01),
    ]  # fmt: skip
    assert all(c.value >= e.value for e, c in zip(found[:2], found[2:], strict=True))


@given(st.integers(300, 2000), st.sampled_from([0.01, 0.05]))
@settings(max_examples=15, deadline=None)
def test_the_bound_of_the_rate_is_clopper_and_pearsons(n: int, fpr: float) -> None:
    found = set_threshold(np.arange(float(n)), fpr, "validation")
    false_positives = round(found.measured_fpr * n)
    wanted = binomtest(false_positives, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert found.fpr_high == pytest.approx(wanted)


def test_the_bound_without_a_false_positive_is_the_rule_of_three() -> None:
    assert fpr_bound(1000, 1000) == pytest.approx(3 / 1000, rel=0.01)


def test_the_true_rate_is_below_the_bound_for_95_percent_of_draws_although_the_cut_was_chosen_on_them() -> None:
    draws = np.random.default_rng(0).random((1000, 300))  # uniform: the true rate of a cut c is 1 - c
    bound = set_threshold(draws[0], 0.05, "v").fpr_high
    assert bound == fpr_bound(300, 285) == pytest.approx(beta.ppf(0.95, 16, 285))
    held = [1 - threshold_value(negatives, 0.05) <= bound for negatives in draws]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def two_classes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int64)
    return rng.normal(size=n) + 2 * labels, labels


def test_below_a_thousand_examples_probabilities_are_platts() -> None:
    scores, labels = two_classes(ISOTONIC_FROM - 1)
    assert calibrate(scores, labels) == platt(scores, labels)


def test_from_a_thousand_examples_on_probabilities_are_scikit_learns_isotonic_ones() -> None:
    scores, labels = two_classes(2000)
    found = calibrate(scores, labels)
    lowest, highest = 1 / ((labels == 0).sum() + 2), (labels.sum() + 1) / (labels.sum() + 2)
    theirs = IsotonicRegression(y_min=lowest, y_max=highest, out_of_bounds="clip").fit(scores, labels)
    at = np.linspace(-9, 9, 500)
    np.testing.assert_allclose([found.probability(x) for x in at], theirs.predict(at), atol=1e-12)
    assert len(found.knots) > 10
    assert (found.slope, found.intercept) == (platt(scores, labels).slope, platt(scores, labels).intercept)


@given(st.integers(0, 1000), st.booleans(), st.lists(st.floats(-50, 50), min_size=2, max_size=50))
@settings(max_examples=10, deadline=None)
def test_a_higher_score_never_has_a_lower_probability_and_none_is_certain(
    seed: int, isotonic: bool, at: list[float]
) -> None:
    found = calibrate(*two_classes(ISOTONIC_FROM if isotonic else 100, seed))
    values = [found.probability(x) for x in sorted([*at, -1e300, 1e300])]
    assert values == sorted(values)
    assert 0 < values[0] <= values[-1] < 1


def test_separable_scores_in_plenty_are_not_certain_either() -> None:
    labels = np.arange(2000) % 2
    found = calibrate(np.arange(2000) % 2 * 10.0, labels)
    assert found.probability(-5) == pytest.approx(1 / 1002)
    assert found.probability(15) == pytest.approx(1001 / 1002)


def test_equal_scores_get_the_share_of_positives() -> None:
    found = calibrate(np.full(1000, 2.5), np.arange(1000) % 4 // 3)
    assert found.probability(0) == found.probability(9) == pytest.approx(0.25)


def test_an_unscored_score_has_no_probability() -> None:
    for found in (Calibration(slope=1, intercept=0), Calibration(slope=1, intercept=0, knots=((0.0, 0.1), (1.0, 0.9)))):
        assert math.isnan(found.probability(math.nan))


def test_probabilities_lie_on_straight_lines_between_knots() -> None:
    found = Calibration(slope=1, intercept=0, knots=((0.0, 0.1), (2.0, 0.5), (3.0, 0.5)))
    assert [found.probability(x) for x in (-1, 0, 1, 2, 2.5, 3, 4)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5, 0.5, 0.5, 0.5]
    )


@pytest.mark.parametrize("knots", [((1.0, 0.1), (1.0, 0.2)), ((0.0, 0.3), (1.0, 0.2)), ((0.0, -0.1),), ((0.0, 1.1),)])
def test_knots_that_are_no_probability_curve_are_refused(knots) -> None:
    with pytest.raises(ValidationError, match="knot"):
        Calibration(slope=1, intercept=0, knots=knots)


def test_calibration_wants_scored_examples_of_both_labels() -> None:
    with pytest.raises(DataError, match="1 of 3 scores are not finite"):
        calibrate(np.array([0.0, np.nan, 1.0]), np.array([0, 1, 1]))
    with pytest.raises(DataError, match=r"all 2 examples have label \[1\]"):
        calibrate(np.array([0.0, 1.0]), np.array([1, 1]))
