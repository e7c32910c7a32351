"""The validation figures of a probe, and the order in which probes are preferred.

The probe with the best AUROC of the *streaming* statistic wins, then the one with the highest TPR at the allowed
false-positive rate, then the one with the widest separation: each in the worst of the plain and the ablated passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probes.train.calibrate import threshold_value
from probes.train.fit import Condition, Labels, Values
from probes.train.metrics import auroc, rate_at, separation
from probes.train.statistic import never_trips, worst_case

JUDGED: tuple[Condition, ...] = ("plain", "ablated")


@dataclass(frozen=True)
class Figures:
    """Figures on the validation split, each the worst of the judged conditions.

    Attributes:
        auroc: of the streaming statistic. tpr: at the allowed rate.
        separation: distance of the class means in standard deviations.
    """

    auroc: float
    tpr: float
    separation: float

    @property
    def quality(self) -> tuple[float, float, float]:
        """For comparison; rounded to what a validation set can tell apart."""
        return round(self.auroc, 3), round(self.tpr, 2), round(self.separation, 3)


def mean_figures(figures: Sequence[Figures]) -> Figures:
    """Mean of each figure, over seeds or folds."""
    return Figures(*(float(np.mean([getattr(f, n) for f in figures])) for n in ("auroc", "tpr", "separation")))


def figures_of(statistics: Mapping[Condition, Values], labels: Labels, fpr: float) -> Figures:
    """Figures of streaming statistics by condition.

    Args:
        statistics: ``(n,)`` fp64 each, NaN unscored; ``plain`` is needed.
        labels: ``(n,)``.
        fpr: at which the TPR is taken; the threshold is set on the plain negatives, as in serving.
    """
    negatives = statistics["plain"][labels == 0]
    negatives = negatives[~np.isnan(negatives)]
    # Without a scored negative there is no threshold, and nothing trips.
    threshold = threshold_value(negatives, fpr) if len(negatives) else np.inf
    judged = [v for c, v in statistics.items() if c in JUDGED]
    ranked = [never_trips(v) for v in judged]
    return Figures(
        auroc=min(auroc(worst_case(v, labels), labels) for v in judged),
        tpr=min(rate_at(v[labels == 1], threshold) for v in ranked),
        separation=min(separation(v, labels) for v in ranked),
    )
