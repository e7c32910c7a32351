"""From folded scores on validation data to thresholds, probabilities and a reference for drift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from probes.errors import DataError
from probes.train.metrics import Floats, Labels
from probes.types import Calibration, Histogram, Threshold

NEGATIVES_TIMES_FPR = 3
N_BINS = 20


def threshold_value(negatives: Floats, fpr: float) -> float:
    """The smallest cut that at most a share ``fpr`` of ``negatives`` reaches.

    Args:
        negatives: ``(n,)`` fp64 folded scores, no NaN.
        fpr: highest allowed false-positive rate. A *closest* rate could exceed it.
    """
    allowed = math.floor(fpr * len(negatives) + 1e-9)
    highest_passing = float(np.sort(negatives)[len(negatives) - 1 - allowed])
    return math.nextafter(highest_passing, math.inf)


def set_threshold(negatives: Floats, fpr: float, data: str) -> Threshold:
    """A threshold at false-positive rate ``fpr``, with what it was measured on.

    Raises:
        DataError: fewer than ``3 / fpr`` negatives: with so few, even a useless cut may show no false
            positive (the "rule of three" for a rate whose 95 % bound is 3 / n).
    """
    needed = math.ceil(NEGATIVES_TIMES_FPR / fpr - 1e-9)
    if len(negatives) < needed:
        possible = NEGATIVES_TIMES_FPR / max(len(negatives), 1)
        raise DataError(
            f"a threshold at a false-positive rate of {fpr:g} needs {needed} negatives in {data}; there are "
            f"{len(negatives)}. Label more negatives, or ask for --fpr {possible:.2g} or more."
        )
    value = threshold_value(negatives, fpr)
    measured = float((negatives >= value).mean())
    return Threshold(value=value, fpr=fpr, measured_fpr=measured, n_negatives=len(negatives), data=data)


def set_thresholds(negatives: Floats, fprs: Sequence[float], data: str) -> tuple[Threshold, ...]:
    """One threshold for each false-positive rate, in the given order."""
    return tuple(set_threshold(negatives, fpr, data) for fpr in fprs)


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
    targets = np.where(labels == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
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
