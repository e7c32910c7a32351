"""95 % intervals: the stratified bootstrap, and the exact interval of a share.

A share at a fixed threshold is binomial, and its exact interval is the better one: the bootstrap of 100 hits of 100
is the interval [1, 1], the exact one starts at 0.96. What ranks (AUROC, average precision, TPR at a rate of the same
examples) is bootstrapped, with that same weakness at its ends: no draw shows what the sample does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from probes.cards import Estimate
from probes.train.evaluation.ranking import Ranking
from probes.train.metrics import Floats, Labels

N_DRAWS = 1000
COVERAGE = 0.95
_CELLS = 2_000_000  # of one block of draws: 16 MB


def bootstrap(figure: Callable[[Floats], Floats], labels: Labels, seed: int, n_draws: int = N_DRAWS) -> Estimate:
    """A figure of all examples, with its percentile bootstrap interval, drawn within each class.

    Figures that are computed in one call see the same draws: the difference of two is a paired bootstrap. The
    interval is widened to the figure itself where all draws lie on one side of it.

    Args:
        figure: ``(n_draws, n_examples)`` fp64 counts to ``(n_draws,)`` fp64.
        labels: ``(n_examples,)`` 0 or 1.
        seed: of the draws.
        n_draws: how many.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    value = float(figure(np.ones((1, len(labels))))[0])
    drawn = np.concatenate([figure(weights) for weights in _resamples(labels, seed, n_draws)])
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def auroc_estimate(scores: Floats, labels: Labels, seed: int) -> Estimate:
    """AUROC with its interval; no score is NaN."""
    return bootstrap(Ranking.of(scores, labels).auroc, labels, seed)


def auroc_gap(scores: Floats, others: Floats, labels: Labels, seed: int) -> Estimate:
    """AUROC of ``scores`` minus that of ``others``, paired: each draw holds the same examples for both."""
    mine, theirs = Ranking.of(scores, labels), Ranking.of(others, labels)
    return bootstrap(lambda weights: mine.auroc(weights) - theirs.auroc(weights), labels, seed)


def share_estimate(hits: int, n: int) -> Estimate:
    """A share with its exact interval.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits".
    """
    interval = binomtest(hits, n).proportion_ci(COVERAGE, method="exact")
    return Estimate(value=hits / n, low=float(interval.low), high=float(interval.high))


def _resamples(labels: Labels, seed: int, n_draws: int) -> Iterator[Floats]:
    """How often each example is drawn: blocks of ``(n, n_examples)`` fp64, ``n_draws`` rows together."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    block = max(1, _CELLS // len(labels))
    for start in range(0, n_draws, block):
        n = min(block, n_draws - start)
        weights = np.zeros((n, len(labels)))
        for members in classes:
            k = len(members)
            drawn = rng.integers(k, size=(n, k)) + np.arange(n)[:, None] * k  # each row counts in its own k bins
            weights[:, members] = np.bincount(drawn.ravel(), minlength=n * k).reshape(n, k)
        yield weights
