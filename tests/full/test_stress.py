"""Hundreds of requests come, go and are preempted; every token's score is its own, once, and transformers'."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.load import CRAMPED
from tests.support.start import start
from tests.support.stress import run_stress

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cramped(model, bundle, tmp_path_factory) -> Iterator[object]:
    engine = start(model, bundle, tmp_path_factory.mktemp("cramped"), **CRAMPED)
    yield engine
    engine.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_no_token_of_hundreds_of_staggered_requests_is_missing_wrong_or_someone_elses(seed, cramped, reference):
    result = run_stress(cramped, reference, n=520, seed=seed)
    print(result)
    assert result.n_preemptions > 0, "the KV cache of this engine is meant to be too small for the batch"
    assert result.n_cached > 0, "prompts are meant to share prefixes"
    assert result.n_aborted > 30
    assert result.n_lost_frames == 0
    assert (result.n_missing, result.n_misattributed, result.n_wrong_folds) == (0, 0, 0)
    assert result.worst_share <= 1
