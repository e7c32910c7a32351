"""Figures about scores and labels, in numpy. ``-inf`` is a legal score: it never trips.

A score of NaN (unscored) has no place in a figure; callers say what becomes of it first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def auroc(scores: Floats, labels: Labels) -> float:
    """Probability that a positive scores above a negative, ties counted half.

    Source: the Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982).
    """
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum() - (sizes - 1) / 2)[group]  # average rank of each tie group, from 1
    rank_sum = float(ranks[labels == 1].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def rate_at(scores: Floats, threshold: float) -> float:
    """Share of ``scores`` that reach ``threshold``."""
    return float((scores >= threshold).mean())


def separation(scores: Floats, labels: Labels) -> float:
    """Distance of the class means in pooled standard deviations (d'), over the finite scores."""
    positive, negative = (scores[(labels == k) & np.isfinite(scores)] for k in (1, 0))
    if len(positive) < 2 or len(negative) < 2:
        return 0.0
    spread = np.sqrt((positive.var() + negative.var()) / 2)
    return float((positive.mean() - negative.mean()) / max(spread, 1e-12))


def bootstrap_auroc(
    scores: Floats, labels: Labels, *, seed: int, n_draws: int = 1000, coverage: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the AUROC, drawn within each class.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    rng = np.random.default_rng(seed)
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    draws = np.empty(n_draws)
    for i in range(n_draws):
        chosen = np.concatenate([rng.choice(positive, len(positive)), rng.choice(negative, len(negative))])
        draws[i] = auroc(scores[chosen], labels[chosen])
    low, high = np.quantile(draws, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
