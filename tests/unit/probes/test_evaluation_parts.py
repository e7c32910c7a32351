"""Parts of the card against scikit-learn and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_samples import conversation, scored
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_curve

from probes.train.evaluation.cascade import cascade_curve
from probes.train.evaluation.curves import MAX_POINTS, calibration_card, histograms, roc_points
from probes.train.evaluation.groups import by_length, by_source, group, worst_families
from probes.train.evaluation.shifts import shift_cases
from probes.types import Calibration


@pytest.mark.parametrize("n", [60, 6000])
def test_every_point_of_the_curve_is_one_of_scikit_learns_and_there_are_at_most_400(n: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    scores = rng.normal(size=n) + labels
    curve = roc_points(scores, labels)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    theirs = set(zip(false.round(9), true.round(9), strict=True))
    assert {(round(x, 9), round(y, 9)) for x, y in zip(curve.x, curve.y, strict=True)} <= theirs
    assert len(curve.x) <= MAX_POINTS
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert list(curve.x) == sorted(curve.x)
    assert list(curve.y) == sorted(curve.y)


def test_a_thinned_curve_keeps_the_corner_of_low_rates() -> None:
    labels = np.arange(20_000) % 2
    curve = roc_points(np.random.default_rng(1).normal(size=20_000) + labels, labels)
    assert sum(0 < x < 0.01 for x in curve.x) > 50
    assert np.diff(curve.x).max() < 0.01


def test_histograms_count_every_scored_example_once() -> None:
    labels = np.arange(101) % 2
    statistic = np.linspace(-3, 3, 101)
    statistic[:4] = np.nan
    found = histograms(statistic, labels)
    assert (sum(found.positive), sum(found.negative)) == (48, 49)
    assert len(found.edges) == len(found.positive) + 1 == len(found.negative) + 1


@given(st.integers(0, 2**31), st.integers(20, 300))
@settings(max_examples=10, deadline=None)
def test_reliability_and_brier_score_agree_with_scikit_learn(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    statistic = rng.normal(size=n) * 3 + labels
    calibration = Calibration(slope=1.3, intercept=-0.2)
    p = 1 / (1 + np.exp(-(1.3 * statistic - 0.2)))
    card = calibration_card(calibration, statistic, labels)
    observed, predicted = calibration_curve(labels, p, n_bins=10)
    np.testing.assert_allclose([b.observed for b in card.bins], observed)
    np.testing.assert_allclose([b.predicted for b in card.bins], predicted)
    assert sum(b.n for b in card.bins) == n
    assert card.brier == pytest.approx(brier_score_loss(labels, p))
    assert card.ece == pytest.approx(sum(b.n * abs(b.observed - b.predicted) for b in card.bins) / n)


def test_a_calibration_error_by_hand_leaves_unscored_examples_out() -> None:
    calibration = Calibration(slope=0.0, intercept=0.0)  # always one half
    card = calibration_card(calibration, np.array([1.0, 2.0, 3.0, 4.0, np.nan]), np.array([1, 1, 1, 0, 0]))
    assert (card.ece, card.brier, card.method) == (0.25, 0.25, "platt")
    assert [(b.predicted, b.observed, b.n) for b in card.bins] == [(0.5, 0.75, 4)]


def test_a_group_of_one_label_has_only_the_rate_of_that_label() -> None:
    found = group("g", np.array([1.0, 3.0, -np.inf]), np.ones(3, dtype=np.int64), 2.0)
    assert (found.n_positive, found.n_negative, found.auroc, found.fpr) == (3, 0, None, None)
    assert found.tpr == pytest.approx(1 / 3)


def test_length_buckets_double_and_hold_every_example_once() -> None:
    sample = scored(200, "test", lengths=(1, 40))
    groups = by_length(sample.encoded, np.nan_to_num(sample.statistic), 0.5)
    assert [g.name for g in groups] == [
        "1 token", "2-3 tokens", "4-7 tokens", "8-15 tokens", "16-31 tokens", "32-63 tokens",
    ]  # fmt: skip
    assert sum(g.n_positive + g.n_negative for g in groups) == 200
    eight = [i for i, e in enumerate(sample.encoded) if 8 <= e.n_read < 16 and e.label == 1]
    assert groups[3].tpr == pytest.approx((sample.statistic[eight] >= 0.5).mean())


def test_sources_are_told_apart_and_the_nameless_one_is_named() -> None:
    examples = [conversation(i, i % 2, "test", 4, "prompt").model_copy(update={"source": "ab"[i // 4] * (i < 6)})
                for i in range(8)]  # fmt: skip
    groups = by_source(examples, np.array([0.0, 1, 0, 1, 1, 0, 0, 1]), 0.5)
    assert [(g.name, g.tpr, g.fpr) for g in groups] == [("(no source)", 1, 0), ("a", 1, 0), ("b", 0, 1)]
    assert [g.auroc for g in groups] == [1, 1, 0]


def test_the_worst_family_comes_first_and_a_faultless_one_not_at_all() -> None:
    examples = [conversation(i, i % 2, "test", 4, "prompt").model_copy(update={"source": "s", "family": "abc"[i // 4]})
                for i in range(12)]  # fmt: skip
    right = np.array([e.label for e in examples], dtype=float)
    scores = right.copy()
    scores[[0]] = 1  # one false positive in a
    scores[[8, 9]] = [1, -np.inf]  # a false positive and an unscored positive in c
    assert [(g.name, g.tpr, g.fpr) for g in worst_families(examples, scores, 0.5)] == [
        ("s / c", 0.5, 0.5),
        ("s / a", 1.0, 0.5),
    ]


def test_a_shift_is_judged_at_the_unchanged_threshold_and_an_unscored_positive_is_a_miss() -> None:
    sample = scored(40, "test")
    sample.statistic[[1, 3]] = np.nan
    case = shift_cases({"long_context": sample}, 0.7)[0]
    positive, negative = sample.statistic[sample.labels == 1], sample.statistic[sample.labels == 0]
    assert case.fnr == pytest.approx(1 - (np.nan_to_num(positive, nan=-9) >= 0.7).mean())
    assert case.fpr == pytest.approx((negative >= 0.7).mean())
    assert (case.name, case.n_positive, case.n_negative) == ("long_context", 20, 20)


def test_a_cascade_by_hand() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    statistic = np.linspace(-1, 1, 20) + 0.01
    statistic[9], statistic[10] = 0.05, -0.04  # the two nearest to the threshold are wrong
    points = {round(p.deferred, 2): p.error for p in cascade_curve(statistic, labels, 0.0)}
    assert (points[0.0], points[0.05], points[0.1], points[1.0]) == (0.1, 0.05, 0.0, 0.0)
    half = {round(p.deferred, 2): p.error for p in cascade_curve(statistic, labels, 0.0, judge_error=0.5)}
    assert half[1.0] == pytest.approx(0.5)


@given(st.integers(0, 2**31), st.integers(2, 80), st.floats(-2, 2))
@settings(max_examples=15, deadline=None)
def test_a_perfect_judge_never_makes_a_cascade_worse(seed: int, n: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    statistic = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))
    points = cascade_curve(statistic, np.arange(n) % 2, threshold)
    errors = [p.error for p in points]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(((statistic >= threshold) != (np.arange(n) % 2 == 1)).mean())
    assert (points[-1].deferred, points[-1].error) == (1, 0)


def test_unscored_examples_are_deferred_before_uncertain_ones() -> None:
    statistic = np.array([np.nan, *np.full(19, 0.0)])  # the unscored positive is the only error
    labels = np.array([1, *np.full(19, 0)])
    points = {round(p.deferred, 2): p.error for p in cascade_curve(statistic, labels, 0.5)}
    assert (points[0.0], points[0.05]) == (0.05, 0.0)
