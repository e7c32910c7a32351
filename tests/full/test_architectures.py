"""For every supported family, every token's scores and the steered logits are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import start
from tests.support.families import FAMILIES
from tests.support.parity import measure, random_prompts
from tests.support.reference import Reference
from tests.support.tiny import make_bundle, make_model

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(1800)]

OPTIONS = {"enforce_eager": True, "max_num_batched_tokens": 64}  # prompts are prefilled in chunks


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_steered_logits_are_those_of_transformers(family: str, tmp_path: Path):
    model = make_model(tmp_path / "model", family)
    bundle = make_bundle(tmp_path / "bundle", model)
    engine = start(model, bundle, tmp_path, **OPTIONS)
    try:
        shares = measure(engine, Reference(model, bundle, family), random_prompts(15, seed=1))
    finally:
        engine.close()
    assert max(score for score, _ in shares) <= 1
    assert max(logit for _, logit in shares) <= 1
