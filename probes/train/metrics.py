"""Figures about scores and labels, in numpy. ``-inf`` is a legal score: it never trips.

A score of NaN (unscored) has no place in a figure; callers say what becomes of it first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def auroc(scores: Floats, labels: Labels) -> float:
    """Probability that a positive scores above a negative, ties counted half.

    Source: the Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982).
    """
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    rank_sum = float(rankdata(scores)[labels == 1].sum())  # ties share their average rank
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
