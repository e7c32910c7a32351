"""Sums over labelled rows, and the linear probes that follow from them in closed form.

With the pooled covariance S = scatter / n, the class means m_0 and m_1, their difference delta and middle mid:

    mass-mean            w = delta / s^2,  s^2 = u' S u with u = delta / |delta|,  b = -w' mid
    mass-mean, whitened  w = S^-1 delta,                                           b = -w' mid
    LDA                  w = S_g^-1 delta,  S_g = (1 - g) S + g tr(S) / d I,       b = -w' mid + log(n_1 / n_0)
    ridge                least squares on targets of -1 and 1 over standardised rows, penalty alpha |w|^2

The mass-mean direction is delta; dividing it by s^2 makes the score the log-odds of two Gaussians of equal variance
along it. Statistics are kept in fp64 and solved in fp64.

Source: mass-mean: Marks and Tegmark 2023 (arXiv:2310.06824), section 4; LDA with shrinkage: Friedman 1989,
"Regularized discriminant analysis"; ridge as a classifier: Hastie, Tibshirani and Friedman 2009, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Solution = tuple[Floats, float]
_BLOCK = 8192


@dataclass(frozen=True)
class Moments:
    """What the closed forms need of the rows of two classes.

    Attributes:
        counts: ``(2,)`` fp64, sum of the weights of each class, both above 0.
        means: ``(2, d_model)`` fp64, of each class.
        scatter: ``(d_model, d_model)`` fp64, sum over rows of ``weight * (x - mean of its class)`` squared (outer).
    """

    counts: Floats
    means: Floats
    scatter: Floats

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self.counts.sum())

    @property
    def delta(self) -> Floats:
        """Difference of the class means: ``(d_model,)``."""
        return np.asarray(self.means[1] - self.means[0])

    @property
    def mid(self) -> Floats:
        """Middle between the class means: ``(d_model,)``."""
        return np.asarray(self.means.mean(axis=0))

    @classmethod
    def of(cls, rows: NDArray[np.floating], labels: NDArray[np.int64], weights: Floats) -> Moments:
        """From rows in memory.

        Args:
            rows: ``(n, d_model)`` fp32 or fp64.
            labels: ``(n,)`` 0 or 1, both present with positive weight.
            weights: ``(n,)``, not negative.
        """
        shares = np.stack([weights * (labels == k) for k in (0, 1)])
        counts = shares.sum(axis=1)
        means = np.zeros((2, rows.shape[1]))
        scatter = np.zeros((rows.shape[1], rows.shape[1]))
        for part in _blocks(len(rows)):
            means += shares[:, part] @ rows[part].astype(np.float64)
        means /= counts[:, None]
        for part in _blocks(len(rows)):
            centred = (rows[part] - means[labels[part]]) * np.sqrt(weights[part])[:, None]
            scatter += centred.T @ centred
        return cls(counts, means, scatter)


def solve_mass_mean(moments: Moments, *, whiten: bool) -> Solution:
    """Difference of means, as log-odds; see the module docstring."""
    delta, covariance = moments.delta, moments.scatter / moments.total
    if whiten:
        weights = np.asarray(linalg.lstsq(covariance, delta)[0])  # least norm, where the covariance is singular
    else:
        norm = float(delta @ delta)
        spread = float(delta @ covariance @ delta)
        weights = delta * (norm / spread) if spread > 0 else delta
    return weights, -float(weights @ moments.mid)


def solve_lda(moments: Moments, shrinkage: float) -> Solution:
    """Linear discriminant; ``shrinkage`` in [0, 1] draws the covariance towards a sphere of the same trace."""
    covariance = (1 - shrinkage) * moments.scatter / moments.total
    size = len(covariance)
    covariance[np.diag_indices(size)] += shrinkage * np.trace(moments.scatter) / moments.total / size
    weights = _solve(covariance, moments.delta)
    prior = np.log(moments.counts[1] / moments.counts[0])
    return weights, float(prior - weights @ moments.mid)


def solve_ridge(moments: Moments, alpha: float) -> Solution:
    """Ridge regression on targets of -1 and 1, over rows standardised to mean 0 and variance 1."""
    n, (n_0, n_1) = moments.total, moments.counts
    between = n_0 * n_1 / n
    gram = moments.scatter + between * np.outer(moments.delta, moments.delta)
    scale = standard_scale(np.sqrt(np.diag(gram) / n))
    gram /= np.outer(scale, scale)
    gram[np.diag_indices(len(gram))] += alpha
    weights = _solve(gram, 2 * between * moments.delta / scale) / scale
    centre = moments.counts @ moments.means / n
    return weights, float((n_1 - n_0) / n - weights @ centre)


def standard_scale(deviations: Floats) -> Floats:
    """Standard deviations to divide by: 1 where a feature is constant, which then tells nothing."""
    tiny = 1e-6 * max(float(deviations.max()), 1e-12)
    return np.where(deviations < tiny, 1.0, deviations)


def _solve(matrix: Floats, target: Floats) -> Floats:
    """Solution of a symmetric system; of least norm where it is singular."""
    try:
        factor = linalg.cho_factor(matrix)
    except linalg.LinAlgError:
        return np.asarray(linalg.lstsq(matrix, target)[0])
    return np.asarray(linalg.cho_solve(factor, target))


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
