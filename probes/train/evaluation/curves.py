"""What is drawn: the ROC curve, histograms of scores, and how good the probabilities are."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import brier_score_loss  # type: ignore[import-untyped]

from probes.cards import CalibrationCard, Curve, Histograms, ReliabilityBin
from probes.train.evaluation.ranking import Ranking
from probes.train.metrics import Floats, Labels
from probes.types import Calibration

MAX_POINTS = 400
N_HISTOGRAM_BINS = 40
N_RELIABILITY_BINS = 10


def roc_points(scores: Floats, labels: Labels) -> Curve:
    """False-positive rate against true-positive rate, at most 400 points.

    Where there are more, those are kept that are highest at evenly spaced rates, half of them evenly in the
    logarithm, so that the corner of low rates stays sharp. No point lies off the curve.

    Args:
        scores: ``(n,)`` fp64, no NaN. labels: ``(n,)``, both present.
    """
    true, false = Ranking.of(scores, labels).counts(np.ones((1, len(labels))))
    tpr = np.append(0.0, true[0] / true[0, -1])
    fpr = np.append(0.0, false[0] / false[0, -1])
    if len(fpr) > MAX_POINTS:
        half = MAX_POINTS // 2 - 1
        wanted = np.concatenate([np.linspace(0, 1, half), np.geomspace(1 / false[0, -1], 1, half)])
        kept = np.unique(np.append(0, np.searchsorted(fpr, wanted + 1e-12, side="right") - 1))
        tpr, fpr = tpr[kept], fpr[kept]
    return Curve(x=tuple(fpr.tolist()), y=tuple(tpr.tolist()))


def histograms(statistic: Floats, labels: Labels) -> Histograms:
    """Scored examples by label, in bins of one width."""
    edges = np.histogram_bin_edges(statistic[np.isfinite(statistic)], bins=N_HISTOGRAM_BINS)
    negative, positive = (
        np.histogram(statistic[(labels == k) & np.isfinite(statistic)], bins=edges)[0] for k in (0, 1)
    )
    return Histograms(edges=tuple(edges.tolist()), positive=tuple(positive.tolist()), negative=tuple(negative.tolist()))


def calibration_card(calibration: Calibration, reported: Floats, labels: Labels) -> CalibrationCard:
    """Reliability in ten bins of one width, expected calibration error and Brier score, over scored examples.

    Args:
        calibration: as it is served.
        reported: ``(n,)`` fp64, the scores of the verdicts, NaN where unscored; at least one is scored.
        labels: ``(n,)``.

    Source: Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning"
    (ECE); Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    scored = ~np.isnan(reported)
    probabilities = np.array([calibration.probability(float(s)) for s in reported[scored]])
    outcomes = labels[scored]
    n_bins = N_RELIABILITY_BINS
    places = np.minimum((probabilities * n_bins).astype(np.int64), n_bins - 1)
    sizes, predicted, observed = (
        np.bincount(places, weights=of, minlength=n_bins) for of in (None, probabilities, outcomes)
    )
    filled = sizes > 0
    return CalibrationCard(
        score="reported",
        method="isotonic" if calibration.knots else "platt",
        ece=float(np.abs(predicted - observed).sum() / len(outcomes)),
        brier=float(brier_score_loss(outcomes, probabilities, pos_label=1)),
        bins=tuple(
            ReliabilityBin(predicted=float(p / n), observed=float(o / n), n=int(n))
            for p, o, n in zip(predicted[filled], observed[filled], sizes[filled], strict=True)
        ),
    )
