"""A small bundle: manifest, tensors and card, for the tests of everything that is done with bundles."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from probes.bundle import CARD_FILE
from probes.cards import (
    CalibrationCard,
    Card,
    Comparison,
    Curve,
    DirectionCard,
    Effect,
    Estimate,
    Failure,
    Histograms,
    ProbeCard,
    RandomControl,
    ShiftCase,
)
from probes.types import (
    Calibration,
    Direction,
    Fingerprint,
    FoldKind,
    FoldSpec,
    Histogram,
    Manifest,
    ModelInfo,
    Probe,
    RoleMarkers,
    Scope,
    Threshold,
)

D = 64
WEIGHTS, VECTOR = "probe.deception.weights", "direction.refusal.vector"


def make_probe(name: str = "deception", **changes: object) -> Probe:
    fields = {
        "name": name,
        "concept": name,
        "layer": 1,
        "bias": -0.5,
        "fold": FoldSpec(kind=FoldKind.MEAN, min_tokens=3),
        "scope": Scope.RESPONSE,
        "thresholds": (Threshold(value=1.25, fpr=0.01, measured_fpr=0.005, n_negatives=400, data="validation"),),
        "calibration": Calibration(slope=1.0, intercept=-1.0),
        "reference": Histogram(edges=(0.0, 1.0), counts=(400,)),
    }
    return Probe.model_validate(fields | changes)


def make_manifest(
    fingerprint: Fingerprint | None = None, probe: str = "deception", direction: str = "refusal", **changes: object
) -> Manifest:
    fields = {
        "name": "test",
        "version": "1",
        "created": "2026-01-01T00:00:00+00:00",
        "model": ModelInfo(
            name="tiny",
            architecture="LlamaForCausalLM",
            n_layers=3,
            d_model=D,
            fingerprint=fingerprint or Fingerprint(config="a", tokenizer="b", chat_template="c", weights="d"),
            markers=RoleMarkers(user=(4,)),
        ),
        "probes": (make_probe(probe),),
        "directions": (
            Direction(name=direction, concept="refusal", layer=0, magnitude=2.0, position="last_prompt_token"),
        ),
    }
    return Manifest.model_validate(fields | changes)


def make_tensors(probe: str = "deception", direction: str = "refusal", seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights, unit = rng.normal(size=(2, D))
    return {
        f"probe.{probe}.weights": weights.astype(np.float32),
        f"direction.{direction}.vector": (unit / np.linalg.norm(unit)).astype(np.float32),
    }


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01)


def make_probe_card(auroc: float = 0.97) -> ProbeCard:
    return ProbeCard(
        concept="deception",
        reads="every token of the response",
        n_positive=369,
        n_negative=486,
        n_unscored=2,
        auroc=estimate(auroc),
        auprc=estimate(0.95),
        tpr_at={"0.01": estimate(0.81)},
        measured_fpr_at={"0.01": 0.008},
        by_seed=(0.96, 0.97),
        candidates=(),
        roc=Curve(x=(0.0, 1.0), y=(0.0, 1.0)),
        calibration=CalibrationCard(method="platt", ece=0.02, brier=0.05, bins=()),
        histograms=Histograms(edges=(0.0, 1.0), positive=(1,), negative=(1,)),
        comparisons=(
            Comparison(name="TF-IDF", kind="text", auroc=estimate(0.645), gap=estimate(0.325)),
            Comparison(name="shuffled labels", kind="control", auroc=estimate(0.503)),
        ),
        shifts=(ShiftCase(name="long_context", n_positive=40, n_negative=40, auroc=0.9, fnr=0.025, fpr=None),),
    )


def make_card(probe: str = "deception", direction: str = "refusal", auroc: float = 0.97) -> Card:
    effect = Effect(name="refusal of harmful prompts", steering="ablate 1.0", before=0.99, after=estimate(0.03))
    return Card(
        note="a small bundle for tests",
        advice="Recalibrate on your own traffic.",
        data={"sha256": "b6ff97"},
        settings={"seed": 0},
        probes={probe: make_probe_card(auroc)},
        directions={
            direction: DirectionCard(
                concept="refusal",
                method="difference of means",
                layer=0,
                position="last_prompt_token",
                candidates=(),
                effects=(effect,),
                random=(RandomControl(operator="ablate", n=100, mean=0.001, worst=-0.03),),
            )
        },
        failures=(Failure(what="a probe at layer 0", found="AUROC 0.55, no better than chance"),),
    )


def reseal(path: Path) -> None:
    """Make the checksums true again, as somebody who edits a bundle by hand would."""
    names = [n for n in ("bundle.json", CARD_FILE, "tensors.safetensors") if (path / n).exists()]
    lines = [f"{hashlib.sha256((path / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (path / "SHA256SUMS").write_text("".join(lines))
