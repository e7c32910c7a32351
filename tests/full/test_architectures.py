"""For every supported family, every token's scores and the steered logits are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.families import FAMILIES
from tests.support.one_family import worst_shares

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_steered_logits_are_those_of_transformers(family: str, tmp_path: Path):
    scores, logits = worst_shares(family, tmp_path)
    assert scores <= 1
    assert logits <= 1
