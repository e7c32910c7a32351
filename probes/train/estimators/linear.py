"""Dense probes: one row of activations in, one logit out. All scaling is folded into the learned column."""

# ruff: noqa: N803  (scikit-learn's contract names the rows X and the inverse penalty C)

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted, validate_data  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probes.train.estimators.moments import (
    Floats,
    Moments,
    Solution,
    solve_lda,
    solve_mass_mean,
    solve_ridge,
    standard_scale,
)
from probes.train.estimators.targets import check_targets

_NEWTON_WIDTH = 512  # up to here a Newton step (d_model^2 per row) is cheaper than the L-BFGS steps that it saves


class LinearProbe(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the dense probes.

    Attributes:
        classes_: ``(2,)``, the negative label first. n_features_in_: ``d_model``.
        coef_: ``(1, d_model)`` fp64. intercept_: ``(1,)`` fp64.
    """

    servable = True

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn from rows.

        Args:
            X: ``(n, d_model)`` fp32 or fp64.
            y: ``(n,)``, two classes.
            sample_weight: ``(n,)``, not negative; a weight of 2 is a row given twice.

        Raises:
            ValueError: as scikit-learn's estimators do; also for one class, or more than two.
        """
        rows, given = validate_data(self, X, y, dtype=(np.float64, np.float32))
        self.classes_, labels, weights = check_targets(given, sample_weight, rows)
        coefficients, intercept = self._solve(rows, labels, weights)
        self.coef_, self.intercept_ = coefficients[None], np.array([intercept])
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Logits: ``(n, d_model)`` in, ``(n,)`` fp64 out."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return np.asarray(rows @ self.coef_[0] + self.intercept_[0])

    def predict_proba(self, X: ArrayLike) -> Floats:
        """``(n, 2)``: the logistic function of the logit, not calibrated."""
        positive = expit(self.decision_function(X))
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class by the logit's sign: ``(n,)``."""
        positive = self.decision_function(X) > 0
        return np.asarray(self.classes_[positive.astype(int)])

    def linear(self) -> tuple[NDArray[np.float32], float]:
        """The column for a bundle: weights ``(d_model,)`` fp32, and the bias."""
        check_is_fitted(self)
        return self.coef_[0].astype(np.float32), float(self.intercept_[0])

    @abstractmethod
    def _solve(self, rows: NDArray[np.floating], labels: NDArray[np.int64], weights: Floats) -> Solution:
        """Coefficients ``(d_model,)`` fp64 and intercept."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class LogisticProbe(LinearProbe):
    """Logistic regression on standardised rows, both classes weighing the same.

    Args:
        C: inverse of the penalty on the squared coefficients; 0.1 is the lambda of 10 of Goldowsky-Dill et al. 2025
            (arXiv:2502.03407).
        max_iter: of the solver.
    """

    def __init__(self, C: float = 0.1, max_iter: int = 1000) -> None:
        self.C = C
        self.max_iter = max_iter

    def _solve(self, rows: NDArray[np.floating], labels: NDArray[np.int64], weights: Floats) -> Solution:
        mean = np.average(rows, axis=0, weights=weights)
        scale = standard_scale(np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=weights)))
        shares = np.bincount(labels, weights, 2)
        solver = "newton-cholesky" if rows.shape[1] <= _NEWTON_WIDTH else "lbfgs"
        model = LogisticRegression(C=self.C, max_iter=self.max_iter, solver=solver)
        with threadpool_limits(1):  # its threads wait for each other: on two busy cores ten times slower
            standard = ((rows - mean) / scale).astype(rows.dtype)
            model.fit(standard, labels, sample_weight=weights * (weights.sum() / (2 * shares))[labels])
        self.n_iter_ = int(model.n_iter_[0])
        coefficients = model.coef_[0].astype(np.float64) / scale
        return coefficients, float(model.intercept_[0] - mean @ coefficients)


class MassMeanProbe(LinearProbe):
    """Difference of the class means.

    Args:
        whiten: divide by the pooled covariance, which tilts the probe away from directions of high variance.
    """

    def __init__(self, whiten: bool = False) -> None:
        self.whiten = whiten

    def _solve(self, rows: NDArray[np.floating], labels: NDArray[np.int64], weights: Floats) -> Solution:
        return solve_mass_mean(Moments.of(rows, labels, weights), whiten=self.whiten)


class LDAProbe(LinearProbe):
    """Linear discriminant analysis.

    Args:
        shrinkage: 0 trusts the measured covariance, 1 takes a sphere (the difference of means).
    """

    def __init__(self, shrinkage: float = 0.1) -> None:
        self.shrinkage = shrinkage

    def _solve(self, rows: NDArray[np.floating], labels: NDArray[np.int64], weights: Floats) -> Solution:
        return solve_lda(Moments.of(rows, labels, weights), self.shrinkage)


class RidgeProbe(LinearProbe):
    """Ridge regression on targets of -1 and 1, on standardised rows.

    Args:
        alpha: penalty on the squared coefficients.
    """

    def __init__(self, alpha: float = 100.0) -> None:
        self.alpha = alpha

    def _solve(self, rows: NDArray[np.floating], labels: NDArray[np.int64], weights: Floats) -> Solution:
        return solve_ridge(Moments.of(rows, labels, weights), self.alpha)
