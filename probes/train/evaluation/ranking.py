"""AUROC, average precision and TPR at FPR <= alpha of one ranking, for many weightings of its examples at once.

A bootstrap draw is a weighting of the examples by counts. So the examples are sorted once, and a thousand draws are
a few cumulative sums. scikit-learn's functions take one weighting at a time; the tests compare with them.

    n_draws  rows of ``weights``, ``(n_draws, n_examples)`` fp64
    n_ties   groups of examples with equal scores
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError
from probes.train.metrics import Floats, Labels


@dataclass(frozen=True)
class Ranking:
    """Examples, highest score first.

    Attributes:
        order: ``(n_examples,)`` int64, indices of the examples.
        ends: ``(n_ties,)`` int64, place in ``order`` of the last example of each group.
        positive: ``(n_examples,)`` bool, in the order of ``order``.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    positive: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Floats, labels: Labels) -> Ranking:
        """Rank by score; ``-inf`` is a score.

        Raises:
            DataError: a score is NaN, or one label only.
        """
        if n_unscored := int(np.isnan(scores).sum()):
            raise DataError(f"{n_unscored} of {len(scores)} scores are NaN; say what becomes of them before ranking.")
        if len(found := np.unique(labels)) < 2:
            raise DataError(f"all {len(labels)} examples have label {found.tolist()}; a ranking needs both 0 and 1.")
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(scores) - 1)
        return cls(order=order, ends=ends, positive=labels[order] == 1)

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """True and false positives if all examples down to each group trip: ``(n_draws, n_ties)`` each."""
        ordered = weights[:, self.order]
        true = np.where(self.positive, ordered, 0.0).cumsum(axis=1)[:, self.ends]
        return true, ordered.cumsum(axis=1)[:, self.ends] - true

    def auroc(self, weights: Floats) -> Floats:
        """Probability that a positive scores above a negative, ties counted half: ``(n_draws,)``.

        Source: Hanley and McNeil 1982; the trapezoids under the ROC curve.
        """
        true, false = self.counts(weights)
        heights = true - np.diff(true, axis=1, prepend=0) / 2
        area = (heights * np.diff(false, axis=1, prepend=0)).sum(axis=1)
        return np.asarray(area / (true[:, -1] * false[:, -1]))

    def average_precision(self, weights: Floats) -> Floats:
        """Precision averaged over the steps of recall, the area under precision and recall: ``(n_draws,)``."""
        true, false = self.counts(weights)
        tripped = true + false
        precision = np.divide(true, tripped, out=np.zeros_like(true), where=tripped > 0)
        return np.asarray((precision * np.diff(true, axis=1, prepend=0)).sum(axis=1) / true[:, -1])

    def tpr_at(self, fpr: float, weights: Floats) -> Floats:
        """Highest TPR of a cut whose FPR is at most ``fpr``, never of one that is closer but above: ``(n_draws,)``."""
        true, false = self.counts(weights)
        allowed = (false <= fpr * false[:, -1:] + 1e-9).sum(axis=1)
        reached = np.concatenate([np.zeros((len(true), 1)), true], axis=1)[np.arange(len(true)), allowed]
        return np.asarray(reached / true[:, -1])
