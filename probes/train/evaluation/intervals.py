"""95 % intervals: the bootstrap over families or examples, and the exact interval of a share.

Examples of one template resemble each other, so that they tell less than as many strangers. Where there are at least
five families of each label, whole families are drawn (:func:`probes.train.resample.group_examples` says what a family
is, for the fit as well); else examples are, within each label, and the interval may be too narrow. With few families
(below some twenty) it tends to be too narrow as well: no draw shows a family that the sample does not hold.

A share at a fixed threshold is binomial among independent examples, and its exact interval is the better one there:
the bootstrap of 100 hits of 100 is the interval [1, 1], the exact one starts at 0.96. Over families the wider one of
both counts. What ranks (AUROC, average precision, TPR at a rate of the same examples) is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from probes.cards import Estimate
from probes.train.evaluation.ranking import Ranking
from probes.train.metrics import Floats, Labels
from probes.train.resample import group_examples

N_DRAWS = 1000
COVERAGE = 0.95
_CELLS = 2_000_000  # of one block of draws: 16 MB


def clusters(families: Sequence[str], labels: Labels) -> Labels | None:
    """The family's number of each example, ``(n,)``, if whole families are to be drawn; None if examples are."""
    groups, by_family = group_examples(families, labels)
    return groups if by_family else None


def bootstrap(
    figure: Callable[[Floats], Floats],
    labels: Labels,
    seed: int,
    n_draws: int = N_DRAWS,
    *,
    families: Labels | None = None,
) -> Estimate:
    """A figure of all examples, with its percentile bootstrap interval.

    Figures that are computed in one call see the same draws: the difference of two is a paired bootstrap. The
    interval is widened to the figure itself where all draws lie on one side of it.

    Args:
        figure: ``(n_draws, n_examples)`` fp64 counts to ``(n_draws,)`` fp64.
        labels: ``(n_examples,)`` 0 or 1.
        seed: of the draws.
        n_draws: how many.
        families: of :func:`clusters`: as many families as there are are drawn, with all their examples, and again
            where a draw lacks a label. None: as many examples as there are of each label.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; for families Davison and Hinkley
    1997, "Bootstrap methods and their application", section 3.8.
    """
    value = float(figure(np.ones((1, len(labels))))[0])
    drawn = np.concatenate([figure(weights) for weights in _resamples(labels, seed, n_draws, families)])
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def auroc_estimate(scores: Floats, labels: Labels, seed: int, families: Labels | None = None) -> Estimate:
    """AUROC with its interval; no score is NaN."""
    return bootstrap(Ranking.of(scores, labels).auroc, labels, seed, families=families)


def auroc_gap(scores: Floats, others: Floats, labels: Labels, seed: int, families: Labels | None = None) -> Estimate:
    """AUROC of ``scores`` minus that of ``others``, paired: each draw holds the same examples for both."""
    mine, theirs = Ranking.of(scores, labels), Ranking.of(others, labels)
    return bootstrap(lambda weights: mine.auroc(weights) - theirs.auroc(weights), labels, seed, families=families)


def share_estimate(hits: int, n: int) -> Estimate:
    """A share with its exact interval.

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits".
    """
    interval = binomtest(hits, n).proportion_ci(COVERAGE, method="exact")
    return Estimate(value=hits / n, low=float(interval.low), high=float(interval.high))


def trip_rate(tripped: Floats, chosen: Floats, labels: Labels, seed: int, families: Labels | None = None) -> Estimate:
    """Share of the chosen examples that trip: its exact interval, or the bootstrap's over families where that is wider.

    Args:
        tripped: ``(n_examples,)`` 0 or 1. chosen: likewise, at least one 1 (the positives, say).
        labels: ``(n_examples,)``. seed: of the draws. families: of :func:`clusters`.
    """
    hits = tripped * chosen
    exact = share_estimate(int(hits.sum()), int(chosen.sum()))
    if families is None:
        return exact

    def share(weights: Floats) -> Floats:
        counts = weights @ chosen
        rates = np.full(len(weights), exact.value)
        np.divide(weights @ hits, counts, out=rates, where=counts > 0)
        return rates

    drawn = bootstrap(share, labels, seed, families=families)
    return Estimate(value=exact.value, low=min(exact.low, drawn.low), high=max(exact.high, drawn.high))


def _resamples(labels: Labels, seed: int, n_draws: int, families: Labels | None) -> Iterator[Floats]:
    """How often each example is drawn: blocks of ``(n, n_examples)`` fp64, ``n_draws`` rows together."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // len(labels))
    for start in range(0, n_draws, block):
        n = min(block, n_draws - start)
        yield _within_labels(labels, n, rng) if families is None else _whole_families(families, labels, n, rng)


def _within_labels(labels: Labels, n: int, rng: np.random.Generator) -> Floats:
    weights = np.zeros((n, len(labels)))
    for members in (np.flatnonzero(labels == label) for label in (0, 1)):
        weights[:, members] = _counts(n, len(members), rng)
    return weights


def _whole_families(families: Labels, labels: Labels, n: int, rng: np.random.Generator) -> Floats:
    n_families = int(families.max()) + 1
    weights = _counts(n, n_families, rng)[:, families]
    while len(lacking := np.flatnonzero(~_has_both(weights, labels))):
        weights[lacking] = _counts(len(lacking), n_families, rng)[:, families]
    return weights


def _has_both(weights: Floats, labels: Labels) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether a draw has each label that the sample has: ``(n_draws,)``."""
    return np.asarray(np.all([(weights[:, labels == label] > 0).any(axis=1) for label in np.unique(labels)], axis=0))


def _counts(n: int, k: int, rng: np.random.Generator) -> Floats:
    """How often each of ``k`` is drawn in ``k`` draws with replacement, ``n`` times over: ``(n, k)`` fp64."""
    drawn = rng.integers(k, size=(n, k)) + np.arange(n)[:, None] * k  # each row counts in its own k bins
    return np.bincount(drawn.ravel(), minlength=n * k).reshape(n, k).astype(np.float64)
