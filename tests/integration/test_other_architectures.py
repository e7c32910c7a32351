"""Beside Llama: a mixture of experts, sliding windows with norms after each block, and the Transformers backend.

All families are in tests/full.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.one_family import worst_shares

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("family", ["mixtral", "gemma3", "gpt-neox"])
def test_scores_and_steered_logits_are_those_of_transformers(family: str, tmp_path: Path):
    scores, logits = worst_shares(family, tmp_path)
    assert scores <= 1
    assert logits <= 1
