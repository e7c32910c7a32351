"""Dense probes keep scikit-learn's contract and agree with scikit-learn's own estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from estimator_contract import contract, spoken
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.train.estimators import LDAProbe, LogisticProbe, MassMeanProbe, RidgeProbe

DENSE = [LogisticProbe(), MassMeanProbe(), MassMeanProbe(whiten=True), LDAProbe(), RidgeProbe()]


def sample(seed: int, n: int = 120, d: int = 6, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated Gaussians, of unequal size."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 3 == 0).astype(int)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    x[:, 0] += shift * y
    return x, y


@pytest.mark.parametrize(
    ("estimator", "check"),
    [pair for p in DENSE if not getattr(p, "whiten", False) for pair in contract(p)],
    ids=spoken,
)
def test_the_estimator_contract_holds(estimator: Any, check: Any) -> None:
    check(estimator)


def test_lda_is_scikit_learns() -> None:
    x, y = sample(0)
    for shrinkage in (0.0, 0.1, 1.0):
        ours = LDAProbe(shrinkage=shrinkage).fit(x, y)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, y)
        np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), rtol=1e-7, atol=1e-9)


def test_ridge_is_scikit_learns_on_standardised_rows() -> None:
    x, y = sample(1)
    weights = np.random.default_rng(0).uniform(0.1, 2.0, len(y))
    for alpha in (0.01, 100.0):
        ours = RidgeProbe(alpha=alpha).fit(x, y, sample_weight=weights)
        theirs = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha))
        theirs.fit(x, y, standardscaler__sample_weight=weights, ridgeclassifier__sample_weight=weights)
        np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("width", [6, 600])
def test_logistic_is_scikit_learns_on_standardised_rows_with_balanced_classes(width: int) -> None:
    x, y = sample(2, d=width)
    ours = LogisticProbe(C=0.1).fit(x, y)
    model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-8, max_iter=5000)
    theirs = make_pipeline(StandardScaler(), model)
    np.testing.assert_allclose(ours.decision_function(x), theirs.fit(x, y).decision_function(x), atol=5e-2)


def test_mass_mean_points_from_one_mean_to_the_other_and_is_a_log_odds_along_it() -> None:
    x, y = sample(3)
    probe = MassMeanProbe().fit(x, y)
    delta = x[y == 1].mean(0) - x[y == 0].mean(0)
    weights, _ = probe.linear()
    np.testing.assert_allclose(weights / np.linalg.norm(weights), delta / np.linalg.norm(delta), atol=1e-6)
    on_line = (x @ delta)[:, None]
    theirs = LinearDiscriminantAnalysis(priors=[0.5, 0.5], solver="lsqr").fit(on_line, y)
    spread = sum(((on_line[y == k] - on_line[y == k].mean()) ** 2).sum() for k in (0, 1)) / len(y)
    even = sum(on_line[y == k].var() for k in (0, 1)) / 2  # with even priors theirs pools the two variances evenly
    np.testing.assert_allclose(
        probe.decision_function(x) * spread, theirs.decision_function(on_line) * even, rtol=1e-6, atol=1e-8
    )


def test_whitened_mass_mean_is_lda_without_priors() -> None:
    x, y = sample(4)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    prior = np.log(y.sum() / (y == 0).sum())
    ours = MassMeanProbe(whiten=True).fit(x, y)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x) - prior, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("probe", DENSE, ids=lambda p: type(p).__name__ + str(getattr(p, "whiten", "")))
def test_the_column_for_the_bundle_gives_the_same_logits(probe: Any) -> None:
    x, y = sample(5)
    weights, bias = clone(probe).fit(x.astype(np.float32), y).linear()
    assert weights.dtype == np.float32
    expected = clone(probe).fit(x.astype(np.float32), y).decision_function(x.astype(np.float32))
    np.testing.assert_allclose(x.astype(np.float32) @ weights + bias, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("probe", DENSE, ids=lambda p: type(p).__name__ + str(getattr(p, "whiten", "")))
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_moving_and_scaling_a_feature_changes_no_decision_of_a_scale_free_probe(probe: Any, seed: int) -> None:
    x, y = sample(seed, n=60, d=4)
    moved = x + 3.0
    np.testing.assert_allclose(
        clone(probe).fit(x, y).decision_function(x), clone(probe).fit(moved, y).decision_function(moved), atol=1e-5
    )
    if isinstance(probe, LogisticProbe | RidgeProbe):
        scaled = x * np.array([1.0, 10.0, 0.01, 5.0])
        np.testing.assert_allclose(
            clone(probe).fit(x, y).decision_function(x),
            clone(probe).fit(scaled, y).decision_function(scaled),
            atol=1e-5,
        )


def test_a_constant_feature_is_given_no_weight() -> None:
    x, y = sample(6)
    x[:, 3] = 7.0
    for probe in (LogisticProbe(), RidgeProbe(), MassMeanProbe()):
        assert abs(probe.fit(x, y).linear()[0][3]) < 1e-9


def test_a_probe_can_stand_behind_a_scaler_in_a_pipeline_and_be_tuned_by_name() -> None:
    x, y = sample(7)
    model = make_pipeline(StandardScaler(), LDAProbe()).set_params(ldaprobe__shrinkage=0.7).fit(x, y)
    assert model.named_steps["ldaprobe"].shrinkage == 0.7
    assert model.score(x, y) > 0.6


def test_three_classes_are_refused_and_so_is_one() -> None:
    x, _ = sample(8, n=9)
    with pytest.raises(ValueError, match="Only binary classification"):
        LDAProbe().fit(x, np.arange(9) % 3)
    with pytest.raises(ValueError, match="there is 1 class"):
        LDAProbe().fit(x, np.zeros(9))
