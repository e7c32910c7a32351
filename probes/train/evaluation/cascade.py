"""What a costlier judge adds: the examples nearest to the threshold are deferred to it."""

from __future__ import annotations

import numpy as np

from probes.cards import CascadePoint
from probes.train.metrics import Floats, Labels

SHARES = (*(i / 100 for i in range(20)), *(i / 20 for i in range(4, 21)))  # dense where a cascade is cheap


def cascade_curve(
    statistic: Floats, labels: Labels, threshold: float, judge_error: float = 0.0
) -> tuple[CascadePoint, ...]:
    """Share of examples that probe and judge together get wrong, against the share deferred.

    An unscored example is deferred first: the probe has nothing to say about it. With none deferred it counts as
    not tripped.

    Args:
        statistic: ``(n,)`` fp64, NaN where unscored.
        labels: ``(n,)``.
        threshold: of the folded score.
        judge_error: share of the deferred examples that the judge gets wrong; 0 is a perfect judge.
    """
    n = len(labels)
    order = np.argsort(np.where(np.isnan(statistic), -1.0, np.abs(statistic - threshold)), kind="stable")
    wrong = ((statistic >= threshold) != (labels == 1))[order]  # NaN >= x is false: not tripped
    left = np.append(wrong[::-1].cumsum()[::-1], 0)  # errors of the probe once the first k are deferred
    deferred = [round(share * n) for share in SHARES]
    return tuple(CascadePoint(deferred=k / n, error=float((left[k] + judge_error * k) / n)) for k in deferred)
