"""Models of several architectures with random weights go through the whole run, and show no skill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from probes.bundle import check_model
from probes.train.pipeline import train
from probes.train.progress import Silent
from probes.train.settings import Settings
from tests.support.probe_samples import FILLER, write_rows
from tests.support.tiny import make_model

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}


def unlearnable(concept: str, per_split: dict[str, int]) -> list[dict[str, Any]]:
    """Labels without regard to the text."""
    rng = np.random.default_rng(0)
    found = []
    for split, n in per_split.items():
        for i in range(n):
            messages = [{"role": "user", "content": " ".join(rng.choice(FILLER, 6))}]
            if concept == "deception":
                messages.append({"role": "assistant", "content": " ".join(rng.choice(FILLER, 5))})
            found.append({
                "id": f"{concept}-{split}-{i}", "concept": concept, "label": i % 2, "split": split,
                "messages": messages, "source": "tests", "family": f"{split}{i // 2 % 12}",
            })  # fmt: skip
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_any_model_gives_a_whole_bundle_and_a_random_one_nothing_beyond_chance(
    family: str, model_dir: Path, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", family, sizes=SIZES)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    for concept in ("harmful_intent", "deception", "refusal"):
        write_rows(
            tmp_path / "data" / f"{concept}.jsonl", unlearnable(concept, {"train": 48, "validation": 60, "test": 80})
        )
    made = train(
        Settings(
            model=folder, data=tmp_path / "data", out=tmp_path / "b", work=tmp_path / "w", name=family,
            model_name=family, fprs=(0.1,), estimators=("logistic", "softmax"), n_seeds=2, device="cpu", threads=1,
        ),
        Silent(),
    )  # fmt: skip
    check_model(made, folder)
    assert made.card is not None
    assert made.manifest.directions == ()
    assert any(f.what == "direction refusal" for f in made.card.failures), "a random model refuses nothing"
    for probe in made.manifest.probes:
        assert abs(probe.metrics["auroc"] - 0.5) < 0.22  # three standard errors of 40 against 40
        assert any(probe.name in f.what and "control" in f.what for f in made.card.failures)
