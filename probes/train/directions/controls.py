"""A direction's effect by strength, and random directions in its place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.cards import DosePoint, DoseResponse, RandomControl
from probes.train.directions.behaviour import Situation
from probes.train.directions.effects import Subject
from probes.train.directions.passes import Text, disturbance, log_likelihoods
from probes.train.interventions import PLAIN, Steering, ablate, add
from probes.train.progress import Reporter

ABLATE_DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
ADD_DOSES = (*ABLATE_DOSES, 1.5, 2.0)


def random_units(n: int, d_model: int, seed: int) -> Tensor:
    """Directions drawn uniformly from the sphere: ``(n, d_model)`` fp32, unit norm."""
    drawn = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    units: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return units


def random_control(subject: Subject, n: int, reporter: Reporter) -> list[RandomControl]:
    """How far ``n`` random directions move the behaviour's rate, ablated and added with the direction's norm.

    A change counts in either direction: ``mean`` and ``worst`` are of its absolute value.
    """
    units = random_units(n, len(subject.unit), subject.seed)
    cases = subject.cases
    found = []
    with reporter.track(f"random directions in place of {subject.behaviour.name}", 2 * n, "directions") as advance:
        for operator, situations in (("ablate", cases.present), ("add", cases.absent)):
            plain = _rate(subject, situations)
            changes = []
            for unit in units:
                vector = unit * subject.magnitude
                steering = ablate(unit) if operator == "ablate" else add(subject.layer, vector)
                changes.append(abs(_rate(subject, situations, steering) - plain))
                advance(1)
            found.append(RandomControl(operator=operator, n=n, mean=sum(changes) / n, worst=max(changes)))
    return found


def dose_response(subject: Subject, reporter: Reporter) -> list[DoseResponse]:
    """Rate of the behaviour, KL divergence and perplexity on harmless prompts, at each strength of each operator.

    Ablation is judged where the behaviour is shown, addition where it is not.
    """
    cases = subject.cases
    jobs = (
        ("ablate", ABLATE_DOSES, lambda s: ablate(subject.unit, s), subject.shown, cases.present),
        ("add", ADD_DOSES, subject.added, subject.hidden, cases.absent),
    )
    found = []
    total = len(ABLATE_DOSES) + len(ADD_DOSES)
    with reporter.track(f"effect of {subject.behaviour.name} by strength", total, "strengths") as advance:
        for operator, doses, steer, where, situations in jobs:
            points = []
            for dose in doses:
                steering = steer(dose)
                values = {where: _rate(subject, situations, steering), **_harm(subject, steering)}
                points.append(DosePoint(strength=dose, values=values))
                advance(1)
            found.append(DoseResponse(operator=operator, points=tuple(points)))
    return found


def _rate(subject: Subject, situations: Sequence[Situation], steering: Steering = PLAIN) -> float:
    scores = subject.behaviour.scores(subject.model, situations, steering)
    return float((scores > 0).double().mean())


def _harm(subject: Subject, steering: Steering) -> dict[str, float]:
    moved = disturbance(subject.model, subject.harmless, steering)
    texts = [Text(p, 1) for p in subject.harmless if len(p) > 1]
    found = {"KL divergence of the next token": float(moved.kl.mean())}
    if texts:
        total = log_likelihoods(subject.model, texts, steering).sum()
        found["perplexity of harmless prompts"] = float((-total / sum(t.n_judged for t in texts)).exp())
    return found
