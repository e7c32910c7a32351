"""Conditional steering: add the direction only where a probe at an earlier layer asks for it.

The condition's threshold is searched on validation prompts. First by detection: the gate is open at the last prompt
token, from which the answer follows, and only thresholds with nearly the best F1 go on. Then by what counts: each of
those is tried in the model, and the one is kept that sets the behaviour of positives and of negatives furthest apart.
(The highest score of any token detects badly: a probe may spike on words that change no answer.)

Source: Lee et al. 2024, "Programming refusal with conditional activation steering" (arXiv:2409.05907), section 3,
with a probe's score in the place of a cosine, each token judged by its own score, and the search by effect added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve  # type: ignore[import-untyped]
from torch import Tensor

from probes.cards import Effect
from probes.errors import DataError
from probes.linear import score_tokens
from probes.train.directions.behaviour import Behaviour, Situation
from probes.train.directions.figures import share
from probes.train.directions.passes import nothing
from probes.train.interventions import PLAIN, ApplyScope, Gate, Steering, add, conditional
from probes.train.model import LoadedModel, forward, observed
from probes.train.progress import Advance, Reporter

N_TRIED = 12
_NEARLY = 0.05  # of the best F1
_BATCH = 32


@dataclass(frozen=True)
class Prompts:
    """Prompts by whether they should be steered."""

    positives: tuple[Situation, ...]
    negatives: tuple[Situation, ...]

    @property
    def all(self) -> tuple[Situation, ...]:
        """Both kinds, positives first."""
        return (*self.positives, *self.negatives)

    @property
    def labels(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """``(n,)`` int64, in the order of :attr:`all`."""
        return np.repeat(np.array([1, 0], dtype=np.int64), [len(self.positives), len(self.negatives)])


@dataclass(frozen=True)
class Point:
    """A threshold that was tried in the model.

    Attributes:
        threshold: logit. f1: of the gate being open in positives rather than in negatives.
        positives, negatives: share of each that shows the behaviour under conditional steering.
    """

    threshold: float
    f1: float
    positives: float
    negatives: float


@dataclass(frozen=True)
class Steerer:
    """What is added, and how it is decided where.

    Attributes:
        layer: of the direction. vector: ``(d_model,)`` fp32 with its magnitude.
        gate: the probe and its sharpness; its threshold is what is searched.
        strength: of the addition. scope: at which positions it may act.
    """

    layer: int
    vector: Tensor
    gate: Gate
    strength: float = 1.0
    scope: ApplyScope = "all"

    def at(self, threshold: float) -> Steering:
        """Conditional addition with this threshold."""
        gate = replace(self.gate, threshold=threshold)
        return conditional(self.layer, self.vector, gate, self.strength, self.scope)

    def always(self) -> Steering:
        """Addition without the condition."""
        return add(self.layer, self.vector, self.strength, self.scope)


@dataclass(frozen=True)
class Condition:
    """Parameters of the engine's condition, with what was found on validation prompts.

    Attributes:
        probe: name. threshold: logit. sharpness: per logit.
        points: all that was tried, by threshold.
    """

    probe: str
    threshold: float
    sharpness: float
    points: tuple[Point, ...]


def search(
    model: LoadedModel, probe: str, steerer: Steerer, behaviour: Behaviour, prompts: Prompts, reporter: Reporter
) -> Condition:
    """The threshold of ``probe`` that steers positives and leaves negatives alone.

    Args:
        model: to be steered.
        probe: name of the probe in ``steerer.gate``.
        steerer: direction and probe.
        behaviour: that the direction brings about.
        prompts: of the validation split.
        reporter: told about progress.

    Raises:
        DataError: no positives or no negatives.
    """
    if not prompts.positives or not prompts.negatives:
        raise DataError(
            f"no condition {probe}: there are {len(prompts.positives)} prompts to steer and "
            f"{len(prompts.negatives)} to leave alone; wanted some of each."
        )
    n = len(prompts.all)
    with reporter.track(f"scores of {probe}", n, "prompts") as advance:
        scores = last_scores(model, steerer.gate, prompts.all, advance)
    tried = thresholds(scores.double().numpy(), prompts.labels)
    points = []
    with reporter.track(f"thresholds of {probe}", n * len(tried), "prompts") as advance:
        for threshold, f1 in tried:
            shares = [
                float((behaviour.scores(model, kind, steerer.at(threshold), advance) > 0).double().mean())
                for kind in (prompts.positives, prompts.negatives)
            ]
            points.append(Point(threshold, f1, *shares))
    best = max(points, key=lambda p: (round(p.positives - p.negatives, 2), p.f1))
    return Condition(probe, best.threshold, steerer.gate.sharpness, tuple(points))


def thresholds(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]], labels: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> list[tuple[float, float]]:
    """At most ``N_TRIED`` thresholds with nearly the best F1, ascending, each with its F1.

    A threshold lies halfway between two neighbouring scores, or the soft gate would be half open at one of them.
    """
    precision, recall, cuts = precision_recall_curve(labels, scores)
    total = precision[:-1] + recall[:-1]
    f1 = 2 * precision[:-1] * recall[:-1] / np.where(total > 0, total, 1.0)
    below = np.concatenate([[cuts[0] - 1.0], cuts[:-1]])
    good = np.flatnonzero(f1 >= f1.max() - _NEARLY)
    chosen = good[np.unique(np.linspace(0, len(good) - 1, N_TRIED).round().astype(int))]
    return [(float((below[i] + cuts[i]) / 2), float(f1[i])) for i in chosen]


def last_scores(model: LoadedModel, gate: Gate, situations: Sequence[Situation], advance: Advance = nothing) -> Tensor:
    """The probe's score at the last token of each prompt, ``(n,)`` fp32."""
    found = torch.empty(len(situations))
    seen: dict[int, Tensor] = {}
    order = sorted(range(len(situations)), key=lambda i: len(situations[i].prompt))
    with observed(model, [gate.layer], seen.__setitem__):
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            prompts = [situations[i].prompt for i in batch]
            forward(model, prompts)
            last = seen[gate.layer][torch.arange(len(batch)), torch.tensor([len(p) - 1 for p in prompts])]
            scores = score_tokens(last.cpu(), gate.weights.cpu()[:, None], torch.tensor([gate.bias]))
            found[batch] = scores[:, 0]
            advance(len(batch))
    return found


def effects(
    model: LoadedModel,
    condition: Condition,
    steerer: Steerer,
    behaviour: Behaviour,
    prompts: Prompts,
    reporter: Reporter,
) -> list[Effect]:
    """Share of positives and of negatives that show the behaviour: steered under the condition, and always.

    Args:
        model: to be steered. condition: that was found. steerer: direction and probe. behaviour: brought about.
        prompts: of the test split. reporter: told about progress.
    """
    found = []
    steerings = (steerer.at(condition.threshold), steerer.always())
    total = len(prompts.all) * (1 + len(steerings))
    with reporter.track(f"steering where {condition.probe} asks for it", total, "prompts") as advance:
        for kind, situations in (("should be steered", prompts.positives), ("should be left alone", prompts.negatives)):
            plain, *steered = (
                (behaviour.scores(model, situations, s, advance) > 0).double() for s in (PLAIN, *steerings)
            )
            found += [
                Effect(
                    name=f"{behaviour.name} where {condition.probe} {kind}",
                    steering=steering.name,
                    before=float(plain.mean()),
                    after=share(after),
                    off_target=situations is prompts.negatives,
                )
                for steering, after in zip(steerings, steered, strict=True)
            ]
    return found
