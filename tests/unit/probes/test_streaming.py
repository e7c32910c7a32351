"""One pass over rows for several concepts gives what the estimators in memory give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import DataError, ShapeError
from probes.train.estimators import LDAProbe, LogisticProbe, MassMeanProbe, RidgeProbe, fit_streaming
from probes.train.estimators.reservoir import Reservoir

D, N = 7, 600


def stream(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows far from zero, and three concepts: one labels all rows, two label one half each."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, size=(N, 3)).astype(np.float64)
    rows = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + 100.0 * rng.normal(size=D)
    rows[:, :3] += targets
    targets[: N // 2, 1] = np.nan
    targets[N // 2 :, 2] = np.nan
    return torch.from_numpy(rows).float(), torch.from_numpy(targets)


@given(st.integers(0, 1000), st.integers(20, 400))
@settings(max_examples=8, deadline=None)
def test_closed_forms_equal_the_estimators_in_memory_in_batches_of_any_size(seed: int, size: int) -> None:
    rows, targets = stream(seed)
    found = fit_streaming(zip(rows.split(size), targets.split(size), strict=True), reservoir=200)
    for concept, streamed in enumerate(found):
        labelled = ~targets[:, concept].isnan()
        x, y = rows[labelled].numpy(), targets[labelled, concept].numpy().astype(int)
        assert streamed.counts == (int((y == 0).sum()), int(y.sum()))
        for name, probe in (("mass_mean", MassMeanProbe()), ("lda", LDAProbe()), ("ridge", RidgeProbe())):
            expected = probe.fit(x, y).decision_function(x)
            np.testing.assert_allclose(streamed.probes[name].decision_function(x), expected, atol=1e-2)


def test_a_sample_that_holds_every_row_gives_the_logistic_probe_in_memory() -> None:
    rows, targets = stream(0)
    found = fit_streaming(zip(rows.split(100), targets.split(100), strict=True), reservoir=N)
    labelled = ~targets[:, 1].isnan()
    x, y = rows[labelled].numpy(), targets[labelled, 1].numpy().astype(int)
    expected = LogisticProbe().fit(x, y).decision_function(x)
    np.testing.assert_allclose(found[1].probes["logistic"].decision_function(x), expected, atol=1e-3)


def test_a_smaller_sample_still_finds_the_concept() -> None:
    rows, targets = stream(1)
    for streamed in fit_streaming([(rows, targets)], reservoir=150):
        assert abs(streamed.probes["logistic"].linear()[0]).max() > 0


def test_every_row_has_the_same_chance_to_be_in_the_sample() -> None:
    counts = np.zeros(50)
    for seed in range(400):
        reservoir = Reservoir(10, np.random.default_rng(seed))
        for part in np.array_split(np.arange(50, dtype=np.float32)[:, None], [3, 10, 11, 40]):
            reservoir.offer(part)
        assert len(np.unique(reservoir.rows)) == 10
        counts[reservoir.rows[:, 0].astype(int)] += 1
    assert np.abs(counts / 400 - 0.2).max() < 0.1  # five standard deviations


def test_half_precision_rows_are_taken() -> None:
    rows, targets = stream(2)
    small = rows - rows.mean(0)
    found = fit_streaming([(small.bfloat16(), targets)], reservoir=N)[0].probes["lda"]
    expected = LDAProbe().fit(small.bfloat16().float().numpy(), targets[:, 0].numpy().astype(int))
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-3)


def test_what_cannot_be_fitted_is_refused() -> None:
    rows, targets = stream(3)
    with pytest.raises(DataError, match="no rows came"):
        fit_streaming([])
    with pytest.raises(DataError, match="concept 0 has"):
        fit_streaming([(rows, torch.zeros_like(targets))])
    with pytest.raises(ShapeError, match="do not fit"):
        fit_streaming([(rows, targets), (rows[:, :3], targets)])
    with pytest.raises(ShapeError, match="do not fit"):
        fit_streaming([(rows, targets[:-1])])
