"""From folded scores on validation data to thresholds, probabilities and a reference for drift.

Thresholds and the reference are of the statistic, probabilities of the score that a verdict reports
(:mod:`probes.train.statistic`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import beta  # type: ignore[import-untyped]
from sklearn.isotonic import IsotonicRegression  # type: ignore[import-untyped]

from probes.errors import DataError
from probes.train.metrics import Floats, Labels
from probes.types import Calibration, Histogram, Threshold

NEGATIVES_TIMES_FPR = 3
ISOTONIC_FROM = 1000  # examples: with fewer, two parameters generalise better than steps
N_BINS = 20
_CONFIDENCE = 0.95

Method = Literal["empirical", "conformal"]


def threshold_value(negatives: Floats, fpr: float) -> float:
    """The smallest cut that at most a share ``fpr`` of ``negatives`` reaches.

    Args:
        negatives: ``(n,)`` fp64 folded scores, no NaN.
        fpr: highest allowed false-positive rate. A *closest* rate could exceed it.
    """
    return _just_above(negatives, _empirical_rank(len(negatives), fpr))


def set_threshold(negatives: Floats, fpr: float, data: str) -> Threshold:
    """A threshold at false-positive rate ``fpr``, with what it was measured on.

    Raises:
        DataError: fewer than ``3 / fpr`` negatives: with so few, even a useless cut may show no false
            positive (the "rule of three" for a rate whose 95 % bound is 3 / n).
    """
    n = len(negatives)
    _check_enough(n, math.ceil(NEGATIVES_TIMES_FPR / fpr - 1e-9), NEGATIVES_TIMES_FPR / max(n, 1), fpr, data)
    return _threshold(negatives, _empirical_rank(n, fpr), fpr, data, "empirical")


def conformal_threshold(negatives: Floats, fpr: float, data: str) -> Threshold:
    """A cut that a new negative, exchangeable with ``negatives``, reaches with a probability of at most ``fpr``.

    It lies just above the ceil((n + 1)(1 - fpr))-th smallest score. For a score that was not chosen on these negatives
    it is exact for any n and any distribution, on average over draws of the negatives; ``fpr_high`` is what holds for
    95 % of the draws.

    Raises:
        DataError: fewer than ``1 / fpr - 1`` negatives: no finite cut has the guarantee.

    Source: Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World"; split conformal
    prediction as in Angelopoulos and Bates 2021 (arXiv:2107.07511).
    """
    n = len(negatives)
    _check_enough(n, math.ceil(1 / fpr - 1e-9) - 1, 1 / (n + 1), fpr, data)
    return _threshold(negatives, math.ceil((n + 1) * (1 - fpr) - 1e-9), fpr, data, "conformal")


def set_thresholds(negatives: Floats, fprs: Sequence[float], data: str) -> tuple[Threshold, ...]:
    """An empirical threshold for each false-positive rate, in the given order; then a conformal one for each.

    Raises:
        DataError: fewer than ``3 / fpr`` negatives for one of them.
    """
    empirical = [set_threshold(negatives, fpr, data) for fpr in fprs]
    return (*empirical, *(conformal_threshold(negatives, fpr, data) for fpr in fprs))


def fpr_bound(n: int, rank: int) -> float:
    """95 % upper bound of the rate at which new negatives exceed the ``rank``-th smallest of ``n``.

    It is Clopper and Pearson's one-sided bound for ``n - rank`` false positives of ``n``. It also holds although
    the cut was chosen on the same scores, because the share of the distribution above an order statistic follows
    Beta(n - rank + 1, rank), and with ties less.

    Source: Clopper and Pearson 1934; Wilks 1941, "Determination of sample sizes for setting tolerance limits".
    """
    return float(beta.ppf(_CONFIDENCE, n - rank + 1, rank))


def calibrate(scores: Floats, labels: Labels) -> Calibration:
    """Probability of the label from the folded score: Platt's sigmoid, and isotonic from 1,000 examples on.

    Args:
        scores: ``(n,)`` fp64, as verdicts report them, scored examples only.
        labels: ``(n,)`` 0 or 1.

    Raises:
        DataError: a score that is not finite, or one label only.
    """
    if not np.isfinite(scores).all():
        raise DataError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite; calibration wants scored "
            "examples only. Leave the unscored ones out."
        )
    if len(found := np.unique(labels)) < 2:
        raise DataError(f"all {len(labels)} examples have label {found.tolist()}; calibration needs both 0 and 1.")
    sigmoid = platt(scores, labels)
    if len(labels) < ISOTONIC_FROM:
        return sigmoid
    return Calibration(slope=sigmoid.slope, intercept=sigmoid.intercept, knots=_isotonic(scores, labels))


def _isotonic(scores: Floats, labels: Labels) -> tuple[tuple[float, float], ...]:
    """Knots of the best non-falling fit, kept as far from 0 and 1 as Platt's targets are."""
    lowest, highest = _platt_targets(labels)
    model = IsotonicRegression(y_min=lowest, y_max=highest, out_of_bounds="clip").fit(scores, labels)
    return tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))


def platt(scores: Floats, labels: Labels) -> Calibration:
    """Probability of the label from the folded score: ``sigmoid(slope * score + intercept)``.

    Targets are drawn in from 0 and 1, so that separable scores give a finite slope. Newton's method on a
    loss that is convex in two numbers.

    Args:
        scores: ``(n,)`` fp64, finite.
        labels: ``(n,)`` 0 or 1, both present.

    Source: Platt 1999; the targets from its section 2.2, the safeguarded Newton steps from Lin, Lin and
    Weng 2007, "A note on Platt's probabilistic outputs".
    """
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    lowest, highest = _platt_targets(labels)
    targets = np.where(labels == 1, highest, lowest)
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    design = np.stack([(scores - centre) / scale, np.ones_like(scores)], axis=1)

    def loss(at: Floats) -> float:
        logits = design @ at
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    weights = np.array([0.0, math.log((n_positive + 1) / (n_negative + 1))])
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - targets)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-9:
            size /= 2
        weights = weights - size * step
        if np.abs(gradient).max() < 1e-7:
            break
    slope = float(weights[0]) / scale
    return Calibration(slope=slope, intercept=float(weights[1]) - slope * centre)


def reference_histogram(negatives: Floats) -> Histogram:
    """Folded scores of the negatives in bins that hold about equally many.

    Scores beyond the outer edges, later on, belong to the outer bins.
    """
    edges = np.unique(np.quantile(negatives, np.linspace(0, 1, N_BINS + 1)))
    if len(edges) == 1:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    counts, _ = np.histogram(negatives, bins=edges)
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))


def _platt_targets(labels: Labels) -> tuple[float, float]:
    """What stands for 0 and for 1, drawn in by one example of each."""
    n_positive = int(labels.sum())
    return 1 / (len(labels) - n_positive + 2), (n_positive + 1) / (n_positive + 2)


def _empirical_rank(n: int, fpr: float) -> int:
    """Rank, from 1, of the highest negative that must not trip."""
    return n - math.floor(fpr * n + 1e-9)


def _just_above(negatives: Floats, rank: int) -> float:
    return math.nextafter(float(np.sort(negatives)[rank - 1]), math.inf)


def _threshold(negatives: Floats, rank: int, fpr: float, data: str, method: Method) -> Threshold:
    value = _just_above(negatives, rank)
    return Threshold(
        value=value,
        fpr=fpr,
        measured_fpr=float((negatives >= value).mean()),
        n_negatives=len(negatives),
        data=data,
        method=method,
        fpr_high=fpr_bound(len(negatives), rank),
    )


def _check_enough(n: int, needed: int, possible: float, fpr: float, data: str) -> None:
    """``possible``: the lowest rate for which ``n`` negatives are enough."""
    if n < needed:
        digits = 1 - math.floor(math.log10(possible))
        rate = math.ceil(possible * 10**digits) / 10**digits
        other = f", or ask for --fpr {rate:g} or more" if rate < 1 else ""
        raise DataError(
            f"a threshold at a false-positive rate of {fpr:g} needs {needed} negatives in {data}; there are {n}. "
            f"Label more negatives{other}."
        )
