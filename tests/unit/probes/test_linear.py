"""Token scores against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.errors import ShapeError
from probes.linear import score_tokens
from probes.train.estimators import LogisticProbe


def test_a_fitted_probe_scores_as_scikit_learns_decision_function_on_scaled_data() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(3.0, [1, 10, 0.1, 5], (300, 4))).astype(np.float32)
    targets = (rows[:, 0] + rows[:, 1] / 10 + rng.normal(size=300) > 6).astype(np.int64)
    weights, bias = LogisticProbe().fit(rows, targets).linear()
    reference = make_pipeline(
        StandardScaler(), LogisticRegression(C=LogisticProbe().C, class_weight="balanced", max_iter=1000)
    ).fit(rows.astype(np.float64), targets)
    scores = score_tokens(
        torch.from_numpy(rows), torch.from_numpy(weights).float()[:, None], torch.tensor([bias]).float()
    )
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores[:, 0], reference.decision_function(rows), rtol=1e-2, atol=1e-2)


def test_a_constant_feature_gets_no_weight_that_blows_up() -> None:
    rows = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    rows[:, 1] = 1000.0
    weights, bias = LogisticProbe().fit(rows, (rows[:, 0] > 0).astype(np.int64)).linear()
    assert np.isfinite([*weights, bias]).all()
    assert abs(weights[1]) < 1e-6


def test_columns_do_not_influence_each_other() -> None:
    activations, weights, bias = torch.randn(5, 8), torch.randn(8, 3), torch.randn(3)
    together = score_tokens(activations, weights, bias)
    for i in range(3):
        torch.testing.assert_close(together[:, i : i + 1], score_tokens(activations, weights[:, [i]], bias[[i]]))


def test_half_precision_activations_are_scored_in_fp32() -> None:
    activations, weights, bias = torch.randn(5, 8).bfloat16(), torch.randn(8, 3), torch.randn(3)
    torch.testing.assert_close(
        score_tokens(activations, weights, bias), activations.double().float() @ weights + bias, rtol=1e-5, atol=1e-5
    )


def test_a_probe_of_another_width_is_refused_naming_the_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(5, 8\).*\(9, 3\)"):
        score_tokens(torch.randn(5, 8), torch.randn(9, 3), torch.randn(3))
