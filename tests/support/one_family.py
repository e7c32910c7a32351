"""One engine on one family's tiny random model, compared with transformers."""

from __future__ import annotations

from pathlib import Path

from tests.support.parity import measure, random_prompts
from tests.support.reference import Reference
from tests.support.start import start
from tests.support.tiny import make_bundle, make_model

OPTIONS = {"enforce_eager": True, "max_num_batched_tokens": 64}  # prompts are prefilled in chunks


def worst_shares(family: str, folder: Path) -> tuple[float, float]:
    """The worst share of the bound, of scores and of steered logits."""
    model = make_model(folder / "model", family)
    bundle = make_bundle(folder / "bundle", model)
    engine = start(model, bundle, folder, **OPTIONS)
    try:
        shares = measure(engine, Reference(model, bundle, family), random_prompts(15, seed=1))
    finally:
        engine.close()
    return max(score for score, _ in shares), max(logit for _, logit in shares)
