"""Requests come, go and are preempted over the steps; the large sibling is tests/full/test_stress.py."""

from __future__ import annotations

import pytest

from tests.support.stress import run_stress

pytestmark = pytest.mark.vllm


def test_no_token_of_staggered_and_aborted_requests_is_missing_wrong_or_someone_elses(eager, reference):
    result = run_stress(eager, reference, n=40, seed=23)
    assert result.n_aborted > 0
    assert result.n_lost_frames == 0
    assert (result.n_missing, result.n_misattributed, result.n_wrong_folds) == (0, 0, 0)
    assert result.worst_share <= 1
