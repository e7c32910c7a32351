"""Rates at thresholds: as they are served, at the test split's own rate, and under other conditions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from probes.cards import Estimate
from probes.rates import written
from probes.train.evaluation.inputs import Judged, Scored
from probes.train.evaluation.intervals import bootstrap, trip_rate
from probes.train.evaluation.ranking import Ranking
from probes.train.metrics import Floats, auroc, rate_at
from probes.train.statistic import never_trips, worst_case
from probes.types import Threshold


def served(thresholds: Sequence[Threshold]) -> dict[str, Threshold]:
    """The first threshold of each false-positive rate, by the rate."""
    found: dict[str, Threshold] = {}
    for threshold in thresholds:
        found.setdefault(written(threshold.fpr), threshold)
    return found


def tpr_estimate(test: Scored, threshold: float, seed: int) -> Estimate:
    """Share of positives that trip; an unscored one does not."""
    return _trips(test, test.labels == 1, threshold, seed)


def fpr_estimate(test: Scored, threshold: float, seed: int) -> Estimate:
    """Share of the scored negatives that trip; at least one is."""
    return _trips(test, (test.labels == 0) & ~np.isnan(test.statistic), threshold, seed)


def _trips(test: Scored, chosen: NDArray[np.bool_], threshold: float, seed: int) -> Estimate:
    tripped = (test.statistic >= threshold).astype(np.float64)  # NaN does not
    return trip_rate(tripped, chosen.astype(np.float64), test.labels, seed, test.families)


def further_figures(judged: Judged) -> dict[str, float]:
    """Figures by name, beyond those that have a place in the card.

    ``tpr_conformal_0.01``, ``fpr_conformal_0.01``
        at a threshold that is not the first of its rate.
    ``tpr_at_test_fpr_0.01``, ``..._low``, ``..._high``
        the highest TPR of a cut whose rate on the test negatives is allowed, bootstrapped: the curve's, nothing served.
    ``auroc_ablated``, ``tpr_ablated``, ``fpr_ablated``
        under a condition, at the first threshold.
    ``n_unscored_ablated``, ``n_unscored_shift_long_context``
        unscored examples of a condition or shift, where there are any.
    """
    return {**_other_thresholds(judged), **_at_own_rates(judged), **_conditions(judged), **_unscored(judged)}


def n_unscored(statistic: Floats) -> int:
    """How many are NaN."""
    return int(np.isnan(statistic).sum())


def _other_thresholds(judged: Judged) -> dict[str, float]:
    scores, labels = judged.test.statistic, judged.test.labels
    negatives = scores[(labels == 0) & ~np.isnan(scores)]
    figures = {}
    first = served(judged.probe.thresholds).values()
    for t in (t for t in judged.probe.thresholds if t not in first):
        figures[f"tpr_{t.method}_{written(t.fpr)}"] = rate_at(scores[labels == 1], t.value)
        figures[f"fpr_{t.method}_{written(t.fpr)}"] = rate_at(negatives, t.value)
    return figures


def _at_own_rates(judged: Judged) -> dict[str, float]:
    labels = judged.test.labels
    ranking = Ranking.of(never_trips(judged.test.statistic), labels)
    figures: dict[str, float] = {}
    for rate, threshold in served(judged.probe.thresholds).items():
        own = bootstrap(partial(ranking.tpr_at, threshold.fpr), labels, judged.seed, families=judged.test.families)
        name = f"tpr_at_test_fpr_{rate}"
        figures |= {name: own.value, f"{name}_low": own.low, f"{name}_high": own.high}
    return figures


def _conditions(judged: Judged) -> dict[str, float]:
    labels, threshold = judged.test.labels, judged.probe.thresholds[0].value
    figures = {}
    for name, statistic in judged.conditions.items():
        scores = never_trips(statistic)
        figures[f"auroc_{name}"] = auroc(worst_case(statistic, labels), labels)
        figures[f"tpr_{name}"] = rate_at(scores[labels == 1], threshold)
        figures[f"fpr_{name}"] = rate_at(scores[labels == 0], threshold)
    return figures


def _unscored(judged: Judged) -> dict[str, float]:
    statistics = {**judged.conditions, **{f"shift_{name}": s.statistic for name, s in judged.shifts.items()}}
    counts = {name: n_unscored(statistic) for name, statistic in statistics.items()}
    return {f"n_unscored_{name}": float(n) for name, n in counts.items() if n}
