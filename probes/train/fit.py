"""Logistic probes, and which layer, fold and training tokens to use: chosen on validation data.

Every layer is fitted with every reading of the concept's phase. The probe with the best validation AUROC
of the *streaming* statistic wins, then the one with the highest TPR at the allowed false-positive rate,
then the one with the widest separation. Every candidate stays in the report.

Prompt probes must keep working while the refusal direction is ablated from the model. So that direction is
projected out of what they read, and ablated (and added) forward passes of the same examples are training
data too; the choice goes by the worst of the plain and the ablated passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from probes.linear import score_tokens
from probes.train.calibrate import threshold_value
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.metrics import auroc, rate_at, separation
from probes.train.progress import Reporter
from probes.train.readings import READINGS, Reading, Rows
from probes.train.statistic import never_trips, statistics

Condition = Literal["plain", "ablated", "added"]
Passes = Mapping[Condition, Activations]
Values = NDArray[np.float64]
JUDGED: tuple[Condition, ...] = ("plain", "ablated")
MAX_ROWS = 40_000
INVERSE_REGULARISATION = 0.1  # lambda = 10, as Goldowsky-Dill et al. 2025 (arXiv:2502.03407)


@dataclass(frozen=True)
class Task:
    """One concept to fit.

    Attributes:
        train: activations by condition; the examples are the same in each. validation: likewise.
        fpr: false-positive rate at which the TPR is taken.
        removed: ``(d_model,)`` fp32 unit vector that the probe must not read, or None.
        seed: for the sample of rows, where there are more than ``MAX_ROWS``.
    """

    train: Passes
    validation: Passes
    fpr: float
    removed: Tensor | None
    seed: int


@dataclass(frozen=True)
class Fitted:
    """One candidate probe with its validation figures.

    Attributes:
        layer: 0-based block.
        reading: scope, fold and training rows.
        weights: ``(d_model,)`` fp32, scaling folded in. bias: logit.
        auroc: of the streaming statistic, by condition. tpr: at the allowed rate, by condition.
        separation: distance of the class means in standard deviations, the worst of the judged conditions.
    """

    layer: int
    reading: Reading
    weights: Tensor
    bias: float
    auroc: Mapping[str, float]
    tpr: Mapping[str, float]
    separation: float

    @property
    def quality(self) -> tuple[float, float, float]:
        """For comparison; rounded to what a validation set can tell apart."""
        judged = [c for c in JUDGED if c in self.auroc]
        return (
            round(min(self.auroc[c] for c in judged), 3),
            round(min(self.tpr[c] for c in judged), 2),
            round(self.separation, 3),
        )

    def report(self) -> dict[str, object]:
        """One row of the card."""
        row: dict[str, object] = {"layer": self.layer, "reading": str(self.reading)}
        row |= {f"auroc_{c}": round(v, 4) for c, v in self.auroc.items()}
        row |= {f"tpr_{c}": round(v, 4) for c, v in self.tpr.items()}
        return row | {"separation": round(self.separation, 3)}


def fit_logistic(
    rows: NDArray[np.float32], targets: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Logistic regression on standardised rows; the scaling is folded into what is returned.

    Args:
        rows: ``(n, d_model)`` fp32.
        targets: ``(n,)`` 0 or 1.
        weights: ``(n,)``, rebalanced here so that both classes count equally.

    Returns:
        ``(d_model,)`` fp64 and the bias: ``row @ w + b`` is the logit.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = rows.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6 * max(float(scale.max()), 1e-12)] = 1.0  # a constant feature tells nothing
    balanced = weights.copy()
    for label in (0, 1):
        chosen = targets == label
        balanced[chosen] *= len(targets) / (2 * balanced[chosen].sum())
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000)
    with threadpool_limits(1):  # its threads wait for each other: on two busy cores ten times slower
        model.fit(((rows - mean) / scale).astype(np.float32), targets, sample_weight=balanced)
    coefficients = model.coef_[0].astype(np.float64) / scale
    return coefficients, float(model.intercept_[0] - mean @ coefficients)


def training_rows(
    activations: Tensor, examples: Sequence[Encoded], offsets: Tensor, rows: Rows
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.float64]]:
    """Rows, targets and weights to fit on.

    Args:
        activations: ``(n_tokens, d_model)`` fp32 of one layer.
        examples: whose tokens these are.
        offsets: ``(n_examples + 1,)`` int64.
        rows: which to take; see :class:`Reading`.
    """
    labels = np.array([e.label for e in examples], dtype=np.int64)
    match rows:
        case "last":
            return activations[offsets[1:] - 1], labels, np.ones(len(labels))
        case "means":
            lengths = offsets.diff()
            owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            sums = torch.zeros(len(lengths), activations.shape[1]).index_add_(0, owner, activations)
            return sums / lengths[:, None], labels, np.ones(len(labels))
        case "tokens":
            targets = np.array([t for e in examples for t in e.targets], dtype=np.int64)
            weights = np.array([w for e in examples for w in e.weights], dtype=np.float64)
            return activations, targets, weights


def fit_concept(task: Task, n_layers: int, reporter: Reporter, *, what: str) -> list[Fitted]:
    """Fit every layer with every reading."""
    found: list[Fitted] = []
    with reporter.track(what, n_layers, "layers") as advance:
        for layer in range(n_layers):
            found += fit_layer(task, layer)
            advance(1)
    return found


def fit_layer(task: Task, layer: int) -> list[Fitted]:
    """Fit one layer with every reading of the concept's phase."""
    inputs = {condition: a.layer(layer) for condition, a in task.train.items()}
    held_out = {condition: a.layer(layer) for condition, a in task.validation.items()}
    solved: dict[Rows, tuple[Tensor, float]] = {}
    found = []
    for reading in READINGS[task.validation["plain"].examples[0].scope.phase]:
        if reading.rows not in solved:
            solved[reading.rows] = _solve(task, inputs, reading.rows)
        weights, bias = solved[reading.rows]
        values = {c: score_examples(held_out[c], a, weights, bias, reading) for c, a in task.validation.items()}
        found.append(_judge(task, layer, reading, (weights, bias), values))
    return found


def choose(candidates: Sequence[Fitted]) -> Fitted:
    """The candidate of the highest quality; the earlier layer where they are equal."""
    return max(candidates, key=lambda c: (c.quality, -c.layer))


def _solve(task: Task, inputs: Mapping[Condition, Tensor], rows: Rows) -> tuple[Tensor, float]:
    """Weights ``(d_model,)`` fp32 and bias from all conditions together."""
    parts = [training_rows(inputs[c], a.examples, a.offsets, rows) for c, a in task.train.items()]
    features = torch.cat([p[0] for p in parts])
    targets = np.concatenate([p[1] for p in parts])
    weights = np.concatenate([p[2] for p in parts])
    if len(features) > MAX_ROWS:
        kept = np.sort(np.random.default_rng(task.seed).choice(len(features), MAX_ROWS, replace=False))
        features, targets, weights = features[torch.from_numpy(kept)], targets[kept], weights[kept]
    if task.removed is not None:
        features = features - (features @ task.removed)[:, None] * task.removed
    solution, bias = fit_logistic(features.numpy(), targets, weights)
    if task.removed is not None:  # w (x - r r.x) = (w - (w.r) r) x: the probe itself does the projection
        unit = task.removed.double().numpy()
        solution = solution - (solution @ unit) * unit
    return torch.from_numpy(solution.astype(np.float32)), bias


def _judge(
    task: Task, layer: int, reading: Reading, solved: tuple[Tensor, float], values: Mapping[Condition, Values]
) -> Fitted:
    """A candidate with its figures on the validation split."""
    labels = np.array([e.label for e in task.validation["plain"].examples], dtype=np.int64)
    negatives = values["plain"][labels == 0]
    negatives = negatives[~np.isnan(negatives)]
    # Without a scored negative there is no threshold, and nothing trips.
    threshold = threshold_value(negatives, task.fpr) if len(negatives) else np.inf
    ranked = {c: never_trips(v) for c, v in values.items()}
    return Fitted(
        layer=layer,
        reading=reading,
        weights=solved[0],
        bias=solved[1],
        auroc={c: auroc(v, labels) for c, v in ranked.items()},
        tpr={c: rate_at(v[labels == 1], threshold) for c, v in ranked.items()},
        separation=min(separation(ranked[c], labels) for c in JUDGED if c in ranked),
    )


def score_examples(
    activations: Tensor, collected: Activations, weights: Tensor, bias: float, reading: Reading
) -> Values:
    """The streaming statistic of every example, ``(n_examples,)`` fp64, by the engine's own arithmetic.

    Args:
        activations: ``(n_tokens, d_model)`` fp32 of the probe's layer.
        collected: where they come from.
        weights: ``(d_model,)`` fp32.
        bias: logit.
        reading: scope and fold.
    """
    scores = score_tokens(activations, weights[:, None], torch.tensor([bias], dtype=torch.float32))[:, 0]
    return statistics(scores, collected.offsets, reading.fold, reading.scope)
