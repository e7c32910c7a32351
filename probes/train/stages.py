"""The stage of one concept's probe: chosen, calibrated, judged, and kept on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.cards import ProbeCard
from probes.train.bench import Bench
from probes.train.calibrate import calibrate, reference_histogram, set_thresholds
from probes.train.checkpoint import Result, key_of
from probes.train.collect import Activations
from probes.train.data import Split
from probes.train.directions.find import FoundDirection
from probes.train.evaluation.card import probe_card
from probes.train.families import group_of
from probes.train.fit import MAX_ROWS, MAX_SEQUENCES, Columns, Condition, Passes, Task
from probes.train.headline import headline
from probes.train.judged import ChosenProbe, judged
from probes.train.model import ablated, added
from probes.train.run import Run
from probes.train.select import Options, Selection, select
from probes.types import Probe


@dataclass(frozen=True)
class TrainedProbe:
    """A probe for the bundle, its tensors ``(d_model,)`` fp32, and everything that was measured about it."""

    probe: Probe
    weights: Tensor
    query: Tensor | None
    card: ProbeCard

    @property
    def columns(self) -> Columns:
        """For scoring."""
        return Columns(self.weights[:, None], torch.tensor([self.probe.bias], dtype=torch.float32), self.query)

    def result(self) -> Result:
        """For a checkpoint."""
        facts: dict[str, object] = {
            "probe": self.probe.model_dump(mode="json"),
            "card": self.card.model_dump(mode="json"),
        }
        tensors = {"weights": self.weights}
        return facts, tensors if self.query is None else {**tensors, "query": self.query}

    @classmethod
    def read(cls, result: Result) -> TrainedProbe:
        """From a checkpoint."""
        facts, tensors = result
        probe, card = Probe.model_validate(facts["probe"]), ProbeCard.model_validate(facts["card"])
        return cls(probe, tensors["weights"], tensors.get("query"), card)


def train_probe(run: Run, concept: str, direction: FoundDirection | None) -> TrainedProbe:
    """The chosen probe of one concept."""
    s = run.settings
    key = key_of(
        s.fprs, s.seed, s.estimators, s.layers, s.n_seeds, s.untrained, s.dtype, s.through,
        direction and direction.vector.tolist(),
    )  # fmt: skip
    name = f"probe-{concept}-{key}"
    trained = TrainedProbe.read(run.checkpoints.stage(name, lambda: compute_probe(run, concept, direction).result()))
    probe, metrics = trained.probe, trained.probe.metrics
    run.reporter.say(
        f"{concept}: layer {probe.layer}, {probe.scope}/{probe.fold.kind}, AUROC {metrics['auroc']:.3f}, "
        f"TPR {metrics['tpr']:.1%} at FPR {metrics['fpr']:.1%} (test split)"
    )
    return trained


def compute_probe(run: Run, concept: str, direction: FoundDirection | None) -> TrainedProbe:
    """Choose, fit, calibrate and judge the probe of one concept, whatever is on disk."""
    settings = run.settings
    steered = direction if run.encoded[concept]["train"][0].scope.phase == "prompt" else None
    task = Task(
        train=_passes(run, concept, "train", steered),
        validation=_passes(run, concept, "validation", steered),
        families=tuple("/".join(group_of(e)) for e in run.dataset.split(concept, "train")),
        fpr=settings.fprs[0],
        removed=steered.vector if steered else None,
        seed=settings.seed,
    )
    _say_sampled(run, concept, task)
    bench = Bench(task)
    layers = settings.layers or tuple(range(len(run.model.layers)))
    options = Options(settings.estimators, layers, settings.n_seeds)
    selection = select(bench, options, run.reporter, what=concept)
    probe = _calibrated(run, concept, bench, selection)
    chosen = ChosenProbe(probe, bench, selection, _passes(run, concept, "test", steered))
    card = probe_card(judged(run, concept, chosen), run.reporter)
    probe = probe.model_copy(update={"metrics": headline(card, probe)})
    return TrainedProbe(probe, selection.columns.weights[:, 0].clone(), selection.columns.query, card)


def _say_sampled(run: Run, concept: str, task: Task) -> None:
    """What the fit does not see: no part of the training data is left out silently."""
    counts = {
        "tokens": (sum(int(a.offsets[-1]) for a in task.train.values()), MAX_ROWS),
        "sequences": (sum(len(a.examples) for a in task.train.values()), MAX_SEQUENCES),
    }
    for what, (n, most) in counts.items():
        if n > most:
            run.reporter.say(f"{concept}: estimators that learn from {what} see {most:,} of {n:,}, drawn at random")


def _calibrated(run: Run, concept: str, bench: Bench, selection: Selection) -> Probe:
    """The probe with thresholds, calibration and reference, from the validation split."""
    configuration, plain = selection.configuration, bench.task.validation["plain"]
    values = bench.at(configuration.layer).validation["plain"]
    columns, reading = selection.columns, configuration.reading
    statistic = columns.statistic(values, plain.offsets, reading)
    labels = np.array([e.label for e in plain.examples], dtype=np.int64)
    scored = ~np.isnan(statistic)
    negatives = statistic[scored & (labels == 0)]
    thresholds = set_thresholds(negatives, run.settings.fprs, f"validation split of {concept}")
    named = columns.reported(values, plain.offsets, reading, thresholds[0].value)
    return Probe(
        name=concept,
        concept=concept,
        layer=configuration.layer,
        bias=float(columns.bias[0]),
        fold=reading.fold,
        scope=reading.scope,
        thresholds=thresholds,
        calibration=calibrate(named[scored], labels[scored]),
        reference=reference_histogram(negatives),
    )


def _passes(run: Run, concept: str, split: Split, steered: FoundDirection | None) -> Passes:
    passes: dict[Condition, Activations] = {"plain": run.activations(concept, split)}
    if steered is not None:
        direction, vector = steered.direction, steered.vector
        key = key_of(direction.layer, direction.magnitude, vector.tolist())
        passes["ablated"] = run.activations(concept, split, f"ablated-{key}", ablated(run.model, vector))
        step = vector * direction.magnitude
        passes["added"] = run.activations(concept, split, f"added-{key}", added(run.model, direction.layer, step))
    return passes
