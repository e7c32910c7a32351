"""Evaluation cards with everything, with next to nothing, with numbered figures and with hostile texts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from probes.cards import (
    CalibrationCard,
    Candidate,
    Card,
    CascadePoint,
    Comparison,
    Curve,
    DetectionTime,
    DirectionCandidate,
    DirectionCard,
    DosePoint,
    DoseResponse,
    Effect,
    Estimate,
    Failure,
    Group,
    HeatMap,
    Histograms,
    ProbeCard,
    RandomControl,
    ReliabilityBin,
    ShiftCase,
    Study,
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

D_MODEL = 16
HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) | `a` ![y](http://evil.test/z) \"'&amp; $a$ _b_\n# c"
_FIXED = frozenset({"version", "label", "tripped_at", "layer"})


def manifest(**changes: Any) -> Manifest:
    """Of a bundle with two probes and a direction."""
    probes = tuple(
        Probe(
            name=name,
            concept=name,
            layer=layer,
            bias=-1.0,
            fold=FoldSpec(kind=FoldKind.MAX),
            scope=scope,
            thresholds=tuple(
                Threshold(
                    value=value,
                    fpr=fpr,
                    measured_fpr=fpr * 0.8,
                    n_negatives=3210,
                    data=f"validation split of {name}",
                    method=method,
                    fpr_high=fpr * 1.7,
                )
                for value, fpr, method in (
                    (1.234, 0.01, "empirical"),
                    (4.567, 0.001, "empirical"),
                    (1.3, 0.01, "conformal"),
                )
            ),
            calibration=Calibration(slope=1.0, intercept=0.0),
            reference=Histogram(edges=(0.0, 1.0), counts=(1,)),
        )
        for name, layer, scope in (("harmful_intent", 5, Scope.LAST_USER), ("deception", 7, Scope.RESPONSE))
    )
    direction = Direction(name="refusal", concept="refusal", layer=6, magnitude=31.25, position="last prompt token")
    fields: dict[str, Any] = {
        "name": "sample",
        "version": "3",
        "created": "2026-01-02T03:04:05+00:00",
        "model": ModelInfo(
            name="acme/tiny-chat",
            architecture="LlamaForCausalLM",
            n_layers=12,
            d_model=D_MODEL,
            fingerprint=Fingerprint(config="c" * 64, tokenizer="d" * 64, chat_template="e" * 64, weights="f" * 64),
            markers=RoleMarkers(),
        ),
        "probes": probes,
        "directions": (direction,),
    }
    return Manifest(**fields | changes)


def estimate(value: float, width: float = 0.01) -> Estimate:
    return Estimate(value=value, low=max(value - width, 0), high=min(value + width * 0.8, 1))


def full_probe(concept: str = "harmful_intent", chosen: int = 5, seed: int = 0) -> ProbeCard:
    """Every field filled, as a good probe's are."""
    rng = np.random.default_rng(seed)
    negative, positive = rng.normal(-4, 1.6, 900), rng.normal(4, 2.2, 800)
    cuts = np.sort(rng.choice(np.concatenate([negative, positive]), 150, replace=False))[::-1]
    edges = np.linspace(-10, 11, 31)
    layers = [
        Candidate(
            layer=layer,
            estimator=estimator,
            reading=f"{concept}, max over tokens",
            regularisation=None if estimator == "mass-mean" else 0.1,
            auroc=estimate(min(0.55 + 0.45 * (1 - np.exp(-layer / 2.2)) - penalty, 0.998), 0.012),
            tpr=min(0.1 * layer, 0.93),
            chosen=layer == chosen and estimator == "logistic",
            servable=estimator != "multi-head max",
        )
        for layer in range(12)
        for estimator, penalty in (
            ("logistic", 0.0),
            ("mass-mean", 0.03),
            ("attention", 0.012),
            ("multi-head max", 0.02),
        )
    ]
    tokens = ("<s>", "tell", "me", "how", "to", "make", "a", "bomb", "at", "home", "please", "<|end|>")
    scores = (None, -5.2, -4.9, -3.1, -2.2, 0.4, 0.9, 6.3, 4.2, 3.3, 1.2, None)
    calm = tuple(None if s is None else s - 7 for s in scores)
    return ProbeCard(
        concept=concept,
        reads="the last user turn and the template tokens after it; fold max; judged once, after the last prompt token",
        n_positive=800,
        n_negative=900,
        n_unscored=3,
        n_families=41,
        auroc=estimate(0.9934, 0.004),
        auprc=estimate(0.9911, 0.005),
        tpr_at={"0.01": estimate(0.962, 0.013), "0.001": estimate(0.871, 0.03)},
        measured_fpr_at={"0.01": 0.0122, "0.001": 0.0011},
        fpr_interval_at={"0.01": (0.0061, 0.0218), "0.001": (0.0003, 0.0062)},
        by_seed=(0.9931, 0.9940, 0.9928, 0.9937, 0.9935),
        conditions={
            "tpr_conformal_0.01": 0.955,
            "fpr_conformal_0.01": 0.0095,
            "tpr_at_test_fpr_0.01": 0.951,
            "tpr_at_test_fpr_0.01_low": 0.933,
            "tpr_at_test_fpr_0.01_high": 0.968,
            "auroc_ablated": 0.988,
            "n_unscored_ablated": 2.0,
        },
        candidates=tuple(layers),
        roc=Curve(
            x=(0.0, *(float((negative >= c).mean()) for c in cuts), 1.0),
            y=(0.0, *(float((positive >= c).mean()) for c in cuts), 1.0),
        ),
        calibration=CalibrationCard(
            score="reported",
            method="isotonic",
            ece=0.0213,
            brier=0.0304,
            bins=tuple(
                ReliabilityBin(predicted=p, observed=float(np.clip(p + rng.normal(0, 0.04), 0, 1)), n=int(n))
                for p, n in zip(np.linspace(0.03, 0.97, 10), (700, 90, 40, 25, 20, 20, 30, 45, 95, 635), strict=True)
            ),
        ),
        histograms=Histograms(
            edges=tuple(edges.tolist()),
            positive=tuple(np.histogram(positive, edges)[0].tolist()),
            negative=tuple(np.histogram(negative, edges)[0].tolist()),
        ),
        by_length=tuple(
            Group(
                name=name, n_positive=n, n_negative=n + 7, auroc=0.99 - i / 100, tpr=0.97 - i / 30, fpr=0.009 + i / 500
            )
            for i, (name, n) in enumerate(
                (("up to 16 tokens", 310), ("17 to 64 tokens", 280), ("65 to 256 tokens", 205))
            )
        ),
        by_source=(
            Group(name="AdvBench", n_positive=520, n_negative=0, tpr=0.981),
            Group(name="XSTest", n_positive=200, n_negative=250, auroc=0.947, tpr=0.905, fpr=0.028),
        ),
        worst=(Group(name="fictional framing", n_positive=40, n_negative=35, auroc=0.871, tpr=0.7, fpr=0.0571),),
        detection=DetectionTime(n_tripped=770, n_missed=30, p10=2.0, p50=5.0, p90=14.5),
        comparisons=(
            Comparison(name="TF-IDF of words", kind="text", auroc=estimate(0.871, 0.02), gap=estimate(0.1224, 0.018)),
            Comparison(name="length", kind="text", auroc=estimate(0.581, 0.03), gap=estimate(0.4124, 0.03)),
            Comparison(
                name="shuffled labels",
                kind="control",
                auroc=estimate(0.507, 0.03),
                gap=Estimate(value=0.4864, low=0.452, high=0.52),
            ),
            Comparison(name="untrained model", kind="control", auroc=estimate(0.83, 0.02)),
            Comparison(
                name="best of 100 random directions",
                kind="control",
                auroc=estimate(0.763, 0.02),
                gap=Estimate(value=0.2304, low=-0.01, high=0.25),
            ),
        ),
        shifts=(
            ShiftCase(name="long_context", n_positive=120, n_negative=130, auroc=0.972, fnr=0.041, fpr=0.0154),
            ShiftCase(name="role_play", n_positive=90, n_negative=0, fnr=0.122),
        ),
        cascade=tuple(
            CascadePoint(deferred=d, error=0.031 * np.exp(-9 * d)) for d in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        ),
        heat_maps=(
            HeatMap(id="h-17", label=1, tokens=tokens, scores=scores, threshold=1.234, tripped_at=10),
            HeatMap(
                id="b-4", label=0, tokens=tuple(f" {t}" for t in tokens), scores=calm, threshold=1.234, tripped_at=None
            ),
        ),
    )


def full_direction() -> DirectionCard:
    """Every field filled, as those of a refusal direction that works."""
    strengths = np.linspace(0, 2, 9)
    return DirectionCard(
        concept="refusal",
        method="difference of means",
        layer=6,
        position="last prompt token",
        candidates=tuple(
            DirectionCandidate(
                layer=layer,
                position=position,
                figures={"bypass": -layer * 1.3 + shift, "induce": layer * 0.9 - shift, "kl": 0.002 * (layer + 1)},
                chosen=layer == 6 and shift == 0,
            )
            for layer in range(10)
            for position, shift in (("last prompt token", 0.0), ("last instruction token", 2.1))
        ),
        effects=(
            Effect(name="refusal of harmful prompts", steering="ablate 1.0", before=0.984, after=estimate(0.021)),
            Effect(name="refusal of harmless prompts", steering="add 1.0", before=0.012, after=estimate(0.958, 0.02)),
            Effect(
                name="KL on harmless text",
                steering="ablate 1.0",
                before=None,
                unit="nats",
                after=Estimate(value=0.0413, low=0.0391, high=0.0437),
            ),
            Effect(name="recall of facts", steering="ablate 1.0", before=0.973, after=estimate(0.969), off_target=True),
            Effect(
                name="deception AUROC", steering="add 1.0", before=None, after=estimate(0.91), unit="", off_target=True
            ),
        ),
        random=(
            RandomControl(operator="ablate", n=100, mean=-0.0021, worst=0.0312),
            RandomControl(operator="add", n=100, mean=0.0043, worst=0.0457),
        ),
        dose=tuple(
            DoseResponse(
                operator=operator,
                points=tuple(
                    DosePoint(
                        strength=s,
                        values={
                            "refusal of harmful prompts": float(1 / (1 + np.exp(sign * 6 * (s - 0.5)))),
                            "refusal of harmless prompts": float(0.02 + 0.9 / (1 + np.exp(-6 * (s - 0.7)))),
                            "kl": 0.03 * s**2,
                            "perplexity": 9.1 + s,
                        },
                    )
                    for s in strengths.tolist()
                ),
            )
            for operator, sign in (("ablate", 1), ("add", -1))
        ),
    )


def full_card() -> Card:
    """Every field of every model filled; figures as those of parts that work."""
    return Card(
        note="sample: figures made up to look at the page.",
        advice="Thresholds hold their false-positive rate on traffic like the validation negatives.",
        data={"sha256": "ab" * 32, "counts": {"harmful_intent": {"test/0": 900, "test/1": 800}}, "sources": ["a", "b"]},
        settings={"seeds": [0, 1, 2, 3, 4], "versions": {"torch": "2.13.0", "scikit-learn": "1.9.1"}, "fpr": 0.01},
        probes={"harmful_intent": full_probe(), "deception": full_probe("deception", chosen=7, seed=1)},
        directions={"refusal": full_direction()},
        failures=(
            Failure(what="Reading at the last prompt token only", found="AUROC fell to 0.81 under role play."),
            Failure(what="One probe for all concepts", found="It followed the most frequent one."),
        ),
        studies=(
            Study(
                title="More data",
                text="Each row has ten times the tokens of the one before.",
                columns=("tokens", "seconds", "remark"),
                rows=((1e4, 1.25, "fits"), (1e5, 11.5, None), (1e6, 118.25, "spills")),
                plot=Curve(x=(1e4, 1e5, 1e6), y=(1.25, 11.5, 118.25)),
            ),
        ),
    )


def minimal_probe() -> ProbeCard:
    """Only what a card must have, and that as empty as it may be."""
    nothing = Estimate(value=0.5, low=0.5, high=0.5)
    return ProbeCard(
        concept="deception",
        reads="nothing",
        n_positive=0,
        n_negative=0,
        n_unscored=0,
        auroc=nothing,
        auprc=nothing,
        tpr_at={},
        measured_fpr_at={},
        by_seed=(),
        candidates=(),
        roc=Curve(x=(), y=()),
        calibration=CalibrationCard(method="platt", ece=0.0, brier=0.25, bins=()),
        histograms=Histograms(edges=(), positive=(), negative=()),
    )


def minimal_card() -> Card:
    """A probe and a direction about which next to nothing is known."""
    direction = DirectionCard(concept="refusal", method="none", layer=0, position="", candidates=(), effects=())
    return Card(probes={"deception": minimal_probe()}, directions={"refusal": direction})


def shortened(card: Card) -> Card:
    """The card's first probe only, with a few points and candidates."""
    name, probe = next(iter(card.probes.items()))
    roc = Curve(x=probe.roc.x[:6], y=probe.roc.y[:6])
    probe = probe.model_copy(update={"roc": roc, "candidates": probe.candidates[20:26]})
    return card.model_copy(update={"probes": {name: probe}})


def without_plain_charts(card: Card) -> Card:
    """The card without the curves whose drawings hold no text of the data."""
    few = {"roc": Curve(x=(), y=()), "histograms": Histograms(edges=(), positive=(), negative=()), "cascade": ()}
    return card.model_copy(update={"probes": {n: p.model_copy(update=few) for n, p in card.probes.items()}})


def numbered(card: Card) -> Card:
    """The card with another number in place of each: floats from 0.101 on, counts from 2001 on, no two alike."""
    floats, counts = count(101), count(2001)

    def change(value: Any, name: str) -> Any:
        if isinstance(value, float):
            return next(floats) / 1000
        if isinstance(value, int) and not isinstance(value, bool) and name not in _FIXED:
            return next(counts)
        return value

    return Card.model_validate(_map(card.model_dump(), change))


def hostile(card: Card) -> Card:
    """The card with a hostile ending of every text and of every name that is free."""
    fixed = {"kind", "method", "score"}

    def change(value: Any, name: str) -> Any:
        return f"{value}{HOSTILE}" if isinstance(value, str) and name not in fixed else value

    raw = _map(card.model_dump(), change)
    for names in ("probes", "directions", "settings", "data"):
        raw[names] = {f"{name}{HOSTILE}": value for name, value in raw[names].items()}
    return Card.model_validate(raw)


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every figure and text below ``value``, with the name of its field."""
    found: list[tuple[str, Any]] = []
    _map(value, lambda leaf, of: found.append((of, leaf)), name)
    return found


def _map(value: Any, change: Callable[[Any, str], Any], name: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _map(v, change, k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map(v, change, name) for v in value]
    return change(value, name)
