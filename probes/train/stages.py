"""The stages that cost something: the refusal direction, and one probe for each concept. Each is kept on disk."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from probes.train import direction as directions
from probes.train import evaluate, fit
from probes.train.calibrate import platt, reference_histogram, set_thresholds
from probes.train.checkpoint import Result, key_of
from probes.train.collect import Activations
from probes.train.data import SPLITS, Split
from probes.train.model import ablated, added
from probes.train.run import Run
from probes.train.settings import REFUSAL
from probes.types import Direction, Probe

_WEAK = 0.5

FoundDirection = tuple[Direction, Tensor, list[dict[str, object]]]


def find_direction(run: Run) -> FoundDirection:
    """The refusal direction, its unit vector ``(d_model,)`` fp32, and every layer's figures."""
    facts, tensors = run.checkpoints.stage("direction", lambda: _compute_direction(run))
    direction = Direction.model_validate(facts["direction"])
    bypassed, induced = direction.metrics["bypass_rate"], direction.metrics["induce_rate"]
    run.reporter.say(
        f"direction {REFUSAL}: layer {direction.layer}; ablated, {bypassed:.0%} of refused prompts are answered; "
        f"added, {induced:.0%} of answered prompts are refused (test split)"
    )
    if min(bypassed, induced) < _WEAK:
        run.reporter.say(
            f"warning: the direction {REFUSAL} does not control refusals in this model; steering with it will "
            "disappoint. More than one direction may mediate them. The card has every layer's effect"
        )
    layers: list[dict[str, object]] = facts["layers"]  # type: ignore[assignment]
    return direction, tensors["vector"], layers


def train_probe(run: Run, concept: str, direction: FoundDirection | None) -> tuple[Probe, Tensor, dict[str, object]]:
    """The chosen probe of one concept, its weights ``(d_model,)`` fp32, and its part of the card."""
    settings = run.settings
    key = key_of(settings.fprs, settings.seed, direction[0].model_dump() if direction else None)
    facts, tensors = run.checkpoints.stage(f"probe-{concept}-{key}", lambda: _compute_probe(run, concept, direction))
    probe = Probe.model_validate(facts["probe"])
    run.reporter.say(
        f"{concept}: layer {probe.layer}, {probe.scope}/{probe.fold.kind}, AUROC {probe.metrics['auroc']:.3f}, "
        f"TPR {probe.metrics['tpr']:.1%} at FPR {probe.metrics['fpr']:.1%} (test split)"
    )
    card: dict[str, object] = facts["card"]  # type: ignore[assignment]
    return probe, tensors["weights"], card


def _compute_direction(run: Run) -> Result:
    splits = run.encoded[REFUSAL]
    train_logits = directions.last_logits(run.model, splits["train"])
    tokens = directions.find_refusal_tokens(train_logits, [e.label for e in splits["train"]])
    kept = set(directions.by_behaviour(splits["train"], train_logits, tokens).all)
    activations = run.activations(REFUSAL, "train")
    last = activations.offsets[1:] - 1
    chosen = {k: torch.tensor([e in kept and e.label == k for e in splits["train"]]) for k in (0, 1)}
    differences = []
    for layer in range(len(run.model.layers)):
        rows = activations.layer(layer)[last].double()
        differences.append(rows[chosen[1]].mean(dim=0) - rows[chosen[0]].mean(dim=0))
    candidates = directions.measure_candidates(
        run.model, differences, _behaving(run, "validation", tokens), tokens, run.reporter
    )
    best = directions.choose(candidates)
    on_test = directions.candidate(
        run.model, best.layer, best.vector.double() * best.magnitude, _behaving(run, "test", tokens), tokens
    )
    direction = Direction(
        name=REFUSAL,
        concept=REFUSAL,
        layer=best.layer,
        magnitude=best.magnitude,
        position="last_prompt_token",
        metrics=on_test.metrics(),
    )
    layers = [{"layer": c.layer, "magnitude": round(c.magnitude, 4), **c.metrics()} for c in candidates]
    return {"direction": direction.model_dump(mode="json"), "layers": layers}, {"vector": best.vector}


def _behaving(run: Run, split: Split, tokens: tuple[int, ...]) -> directions.RefusalPrompts:
    examples = run.encoded[REFUSAL][split]
    return directions.by_behaviour(examples, directions.last_logits(run.model, examples), tokens)


def _compute_probe(run: Run, concept: str, direction: FoundDirection | None) -> Result:
    settings = run.settings
    steered = direction if run.dataset.examples[concept][0].phase == "prompt" else None
    passes = {split: _passes(run, concept, split, steered) for split in SPLITS}
    task = fit.Task(
        train=passes["train"],
        validation=passes["validation"],
        fpr=settings.fprs[0],
        removed=steered[1] if steered else None,
        seed=settings.seed,
    )
    candidates = fit.fit_concept(task, len(run.model.layers), run.reporter, what=f"{concept}: fitting")
    best = fit.choose(candidates)
    labels = {s: np.array([e.label for e in run.encoded[concept][s]], dtype=np.int64) for s in SPLITS}
    values = {s: _statistics(best, passes[s]) for s in ("validation", "test")}
    scored = ~np.isnan(values["validation"]["plain"])
    validation, is_positive = values["validation"]["plain"][scored], labels["validation"][scored]
    thresholds = set_thresholds(validation[is_positive == 0], settings.fprs, f"validation split of {concept}")
    test = run.dataset.split(concept, "test")
    lengths = np.array([e.n_read for e in run.encoded[concept]["test"]], dtype=np.int64)
    probe = Probe(
        name=concept,
        concept=concept,
        layer=best.layer,
        bias=best.bias,
        fold=best.reading.fold,
        scope=best.reading.scope,
        thresholds=thresholds,
        calibration=platt(validation, is_positive),
        reference=reference_histogram(validation[is_positive == 0]),
        metrics={
            **evaluate.evaluate(values["test"], labels["test"], thresholds[0].value, settings.seed),
            **evaluate.text_baselines(run.dataset.split(concept, "train"), test, lengths),
        },
    )
    card = {
        "trained_on": best.reading.rows,
        "layers": [c.report() for c in candidates],
        "worst_families": evaluate.worst_families(test, values["test"]["plain"], thresholds[0].value),
    }
    return {"probe": probe.model_dump(mode="json"), "card": card}, {"weights": best.weights}


def _passes(run: Run, concept: str, split: Split, steered: FoundDirection | None) -> fit.Passes:
    passes: dict[fit.Condition, Activations] = {"plain": run.activations(concept, split)}
    if steered is not None:
        direction, vector, _ = steered
        key = key_of(direction.layer, vector.tolist())
        passes["ablated"] = run.activations(concept, split, f"ablated-{key}", ablated(run.model, vector))
        step = vector * direction.magnitude
        passes["added"] = run.activations(concept, split, f"added-{key}", added(run.model, direction.layer, step))
    return passes


def _statistics(best: fit.Fitted, passes: fit.Passes) -> dict[str, fit.Values]:
    return {
        condition: fit.score_examples(a.layer(best.layer), a, best.weights, best.bias, best.reading)
        for condition, a in passes.items()
    }
