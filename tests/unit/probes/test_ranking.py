"""Figures of weighted rankings and their intervals, against scikit-learn and scipy, and by their invariants."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_samples import scored
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from probes.errors import DataError
from probes.train.evaluation.intervals import (
    auroc_estimate,
    auroc_gap,
    bootstrap,
    clusters,
    share_estimate,
    trip_rate,
)
from probes.train.evaluation.ranking import Ranking
from probes.train.statistic import never_trips

FINITE = st.integers(-4, 4).map(float)
EXAMPLES = st.lists(st.tuples(FINITE, st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=60).filter(
    lambda rows: all(any(w for _, y, w in rows if y == label) for label in (0, 1))
)


def columns(rows):
    scores, labels, weights = map(np.array, zip(*rows, strict=True))
    return scores.astype(float), labels.astype(np.int64), weights.astype(float)


@given(EXAMPLES)
@settings(max_examples=25, deadline=None)
def test_auroc_and_average_precision_of_a_weighting_agree_with_scikit_learn(rows) -> None:
    scores, labels, weights = columns(rows)
    ranking = Ranking.of(scores, labels)
    both = np.stack([weights, np.ones(len(rows))])
    np.testing.assert_allclose(
        ranking.auroc(both),
        [roc_auc_score(labels, scores, sample_weight=weights), roc_auc_score(labels, scores)],
    )
    np.testing.assert_allclose(
        ranking.average_precision(both),
        [average_precision_score(labels, scores, sample_weight=weights), average_precision_score(labels, scores)],
    )


@given(EXAMPLES, st.sampled_from([0.01, 0.1, 0.25, 0.5]))
@settings(max_examples=25, deadline=None)
def test_tpr_at_a_rate_is_the_highest_on_the_curve_that_does_not_exceed_it(rows, fpr: float) -> None:
    scores, labels, weights = columns(rows)
    false, true, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    found = Ranking.of(scores, labels).tpr_at(fpr, weights[None])[0]
    assert found == pytest.approx(true[false <= fpr + 1e-9].max())


def test_tpr_at_a_rate_does_not_take_the_closest_rate_above_it() -> None:
    labels = np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 0])  # the second positive costs FPR 1/8, nearer to 0.12 than 0 is
    scores = -np.arange(10.0)
    assert Ranking.of(scores, labels).tpr_at(0.12, np.ones((1, 10)))[0] == 0.5
    assert Ranking.of(scores, labels).tpr_at(0.125, np.ones((1, 10)))[0] == 1.0


def test_an_unscored_example_must_be_dealt_with_before_it_is_ranked() -> None:
    with pytest.raises(DataError, match="1 of 3 scores are NaN"):
        Ranking.of(np.array([0.0, np.nan, 1.0]), np.array([0, 1, 1]))


def test_a_ranking_of_one_label_is_refused() -> None:
    with pytest.raises(DataError, match=r"all 2 examples have label \[1\]"):
        Ranking.of(np.zeros(2), np.ones(2, dtype=np.int64))


def test_unscored_examples_rank_below_every_scored_one() -> None:
    scores = never_trips(np.array([np.nan, -1e300, np.nan, 2.0]))
    assert Ranking.of(scores, np.array([1, 0, 0, 1])).auroc(np.ones((1, 4)))[0] == pytest.approx(2.5 / 4)


@given(st.integers(0, 2**31), st.integers(2, 40), st.floats(-1, 3))
@settings(max_examples=15, deadline=None)
def test_the_bootstrap_interval_contains_the_figure(seed: int, n: int, effect: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(2 * n) % 2
    ranking = Ranking.of(rng.normal(size=2 * n).round(1) + labels * effect, labels)
    for figure in (ranking.auroc, ranking.average_precision, lambda w: ranking.tpr_at(0.1, w)):
        found = bootstrap(figure, labels, seed, n_draws=50)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_draws_keep_the_number_of_each_class_and_every_example_counts_once_on_average() -> None:
    labels = (np.arange(50) % 5 == 0).astype(np.int64)
    seen = []
    bootstrap(lambda w: seen.append(w) or w.sum(axis=1), labels, 0, n_draws=4000)
    draws = np.concatenate(seen[1:])
    assert set(draws[:, labels == 1].sum(axis=1)) == {10.0}
    assert set(draws[:, labels == 0].sum(axis=1)) == {40.0}
    np.testing.assert_allclose(draws.mean(axis=0), 1.0, atol=0.1)


def test_the_interval_of_an_auroc_is_as_wide_as_its_asymptotic_deviation() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(600) % 2
    scores = rng.normal(size=600) + labels
    found = auroc_estimate(scores, labels, seed=0)
    above = (scores[labels == 1][:, None] > scores[labels == 0]).astype(float)
    # DeLong, DeLong and Clarke-Pearson 1988: variance over the positives' and the negatives' own shares.
    variance = above.mean(axis=1).var(ddof=1) / 300 + above.mean(axis=0).var(ddof=1) / 300
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    sample = scored(100, "test")
    one = auroc_estimate(sample.statistic, sample.labels, seed=7)
    assert one == auroc_estimate(sample.statistic, sample.labels, seed=7)
    assert one != auroc_estimate(sample.statistic, sample.labels, seed=8)


def test_a_gap_to_an_equal_ranking_is_zero_because_the_draws_are_paired() -> None:
    sample = scored(100, "test")
    gap = auroc_gap(sample.statistic, 3 * sample.statistic + 1, sample.labels, seed=0)
    assert (gap.low, gap.value, gap.high) == (0, 0, 0)


def test_a_gap_to_noise_excludes_zero() -> None:
    sample = scored(200, "test")
    noise = np.random.default_rng(0).normal(size=200)
    gap = auroc_gap(sample.statistic, noise, sample.labels, seed=0)
    assert gap.low > 0
    assert gap.value == pytest.approx(
        roc_auc_score(sample.labels, sample.statistic) - roc_auc_score(sample.labels, noise)
    )


@given(st.integers(0, 50), st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_the_interval_of_a_share_is_clopper_and_pearsons(hits: int, more: int) -> None:
    n = hits + more
    found = share_estimate(hits, n)
    assert found.low == pytest.approx(beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0)
    assert found.high == pytest.approx(beta.ppf(0.975, hits + 1, n - hits))
    assert share_estimate(100, 100).low == pytest.approx(0.025 ** (1 / 100))


def in_families(rng: np.random.Generator, n_families: int, each: int, spread: float) -> tuple[np.ndarray, ...]:
    """Scores, labels and families: every family of one label, its examples ``spread`` apart from other families."""
    families = np.repeat(np.arange(n_families), each)
    labels = families % 2
    scores = rng.normal(size=n_families)[families] * spread + rng.normal(size=len(families)) + labels
    return scores, labels.astype(np.int64), families


def test_a_draw_of_families_has_all_or_none_of_a_family_and_always_both_labels() -> None:
    families = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    labels = (families == 5).astype(np.int64)  # one family holds every positive: a third of all draws would lack it
    seen = []
    bootstrap(lambda w: seen.append(w) or w.sum(axis=1), labels, 0, n_draws=500, families=families)
    draws = np.concatenate(seen[1:])
    assert draws.shape == (500, 21)
    for family in range(6):
        assert (draws[:, families == family] == draws[:, families == family][:, :1]).all()
    assert (draws[:, families == 5] > 0).all()
    assert (draws[:, families < 5].sum(axis=1) > 0).all()


def test_families_that_resemble_each_other_inside_widen_the_interval_to_what_new_families_would_show() -> None:
    rng = np.random.default_rng(0)
    samples = (in_families(rng, 60, 20, 1.0) for _ in range(300))
    aurocs = [roc_auc_score(labels, scores) for scores, labels, _ in samples]
    scores, labels, families = in_families(rng, 60, 20, 1.0)
    by_family, by_example = auroc_estimate(scores, labels, 0, families), auroc_estimate(scores, labels, 0)
    width = np.quantile(aurocs, 0.975) - np.quantile(aurocs, 0.025)
    assert by_family.high - by_family.low == pytest.approx(width, rel=0.3)
    assert by_example.high - by_example.low < 0.6 * width
    assert by_family.value == by_example.value


def test_drawing_families_of_one_example_each_is_drawing_examples() -> None:
    scores, labels, _ = in_families(np.random.default_rng(1), 600, 1, 0.0)
    alone, plain = auroc_estimate(scores, labels, 0, np.arange(600)), auroc_estimate(scores, labels, 0)
    assert alone.high - alone.low == pytest.approx(plain.high - plain.low, rel=0.15)


def test_families_are_drawn_only_where_there_are_five_of_each_label() -> None:
    labels = np.arange(40) % 2
    assert clusters([f"f{i // 4}" for i in range(40)], labels) is not None
    assert clusters([f"f{i % 8}" for i in range(40)], labels) is None  # four of each label
    assert clusters(["one"] * 40, labels) is None


def test_a_rate_over_families_is_at_least_as_uncertain_as_the_exact_interval_of_independent_examples() -> None:
    families = np.repeat(np.arange(20), 30)
    labels = families % 2
    positive, tripped = labels.astype(float), (families % 4 == 1).astype(float)  # every second family of positives
    exact = trip_rate(tripped, positive, labels, 0)
    found = trip_rate(tripped, positive, labels, 0, families)
    assert exact == share_estimate(150, 300)
    assert found.value == 0.5
    assert found.low < exact.low - 0.1
    assert found.high > exact.high + 0.1
    everything = trip_rate(np.ones(600), positive, labels, 0, families)
    assert everything == share_estimate(300, 300), "no draw shows a miss that the sample does not hold"
