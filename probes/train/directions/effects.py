"""What a direction does: to its behaviour, to harmless text, and to what probes read about other concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probes.cards import Effect
from probes.train.directions import ace
from probes.train.directions.behaviour import Behaviour, Cases
from probes.train.directions.figures import mean, perplexity, share
from probes.train.directions.passes import Text, disturbance, log_likelihoods
from probes.train.interventions import PLAIN, ApplyScope, Steering, ablate, add
from probes.train.model import LoadedModel
from probes.train.progress import Advance, Reporter

Judge = Callable[[tuple[int, ...]], bool]
SCOPES: tuple[ApplyScope, ...] = ("all", "prompt")


@dataclass(frozen=True)
class Subject:
    """A direction under examination.

    Attributes:
        model: that it was found in. behaviour: that it should control.
        cases: of the test split.
        layer: of the direction. unit: ``(d_model,)`` fp32, unit norm. magnitude: of the difference of means.
        origin: projection of the negatives' mean, in units of ``magnitude``.
        seed: of bootstrap and random directions.
    """

    model: LoadedModel
    behaviour: Behaviour
    cases: Cases
    layer: int
    unit: Tensor
    magnitude: float
    origin: float
    seed: int = 0

    @property
    def shown(self) -> str:
        """Name of the behaviour's rate where the unsteered model shows it."""
        return f"{self.behaviour.name} where it is shown"

    @property
    def hidden(self) -> str:
        """Name of the behaviour's rate where the unsteered model does not show it."""
        return f"{self.behaviour.name} where it is not shown"

    @cached_property
    def harmless(self) -> tuple[tuple[int, ...], ...]:
        """Prompts after which the unsteered model does not show the behaviour."""
        return tuple(s.prompt for s in self.cases.absent)

    def added(self, strength: float = 1.0, scope: ApplyScope = "all") -> Steering:
        """``add`` at the direction's layer."""
        return add(self.layer, self.unit * self.magnitude, strength, scope)

    def edited(self, alpha: float) -> Steering:
        """Affine concept editing at the direction's layer."""
        return ace.edit(self.layer, self.unit, self.magnitude, self.origin, alpha)


def on_behaviour(subject: Subject, reporter: Reporter) -> list[Effect]:
    """Rate and mean score of the behaviour: ablated and edited away where shown, added and edited in where not."""
    cases, name = subject.cases, subject.behaviour.name
    jobs = [
        (subject.shown, cases.present, [ablate(subject.unit), subject.edited(0.0)]),
        (subject.hidden, cases.absent, [subject.added(), subject.edited(1.0)]),
    ]
    found = []
    total = sum(len(situations) * (1 + len(steerings)) for _, situations, steerings in jobs)
    with reporter.track(f"effect of {name} on its behaviour", total, "prompts") as advance:
        for where, situations, steerings in jobs:
            before = subject.behaviour.scores(subject.model, situations, PLAIN, advance)
            for steering in steerings:
                after = subject.behaviour.scores(subject.model, situations, steering, advance)
                found += [
                    Effect(
                        name=where,
                        steering=steering.name,
                        before=float((before > 0).double().mean()),
                        after=share(after > 0),
                    ),
                    Effect(
                        name=f"margin of {where}",
                        steering=steering.name,
                        before=float(before.mean()),
                        after=mean(after, subject.seed),
                        unit=subject.behaviour.measure,
                    ),
                ]
    return found


def on_harmless_text(subject: Subject, answers: Sequence[Text], reporter: Reporter) -> list[Effect]:
    """KL divergence and agreement of the next token, perplexity of the prompts, and perplexity of their answers.

    Args:
        subject: the direction.
        answers: harmless texts with their prompts; none: that figure is left out.
        reporter: told about progress.
    """
    removed, added = ablate(subject.unit), [subject.added(1.0, scope) for scope in SCOPES]
    prompts = [Text(p, 1) for p in subject.harmless if len(p) > 1]
    total = len(subject.harmless) + 3 * len(prompts) + 4 * len(answers)
    with reporter.track(f"effect of {subject.behaviour.name} on harmless text", total, "texts") as advance:
        moved = disturbance(subject.model, subject.harmless, removed, advance)
        found = [
            Effect(
                name="KL divergence of the next token",
                steering=removed.name,
                before=0.0,
                after=mean(moved.kl, subject.seed),
                unit="nats",
            ),
            Effect(
                name="next token of harmless prompts stays the same",
                steering=removed.name,
                before=1.0,
                after=share(moved.agreement),
                off_target=True,
            ),
        ]
        for what, texts, steerings in (
            ("perplexity of harmless prompts", prompts, [removed, added[0]]),
            ("perplexity of harmless answers", answers, [removed, *added]),
        ):
            if texts:
                found += _perplexities(subject, what, texts, steerings, advance)
    return found


def _perplexities(
    subject: Subject, what: str, texts: Sequence[Text], steerings: Sequence[Steering], advance: Advance
) -> list[Effect]:
    counts = torch.tensor([t.n_judged for t in texts])
    measured = [
        perplexity(log_likelihoods(subject.model, texts, steering, advance), counts, subject.seed)
        for steering in (PLAIN, *steerings)
    ]
    return [
        Effect(name=what, steering=steering.name, before=measured[0].value, after=after, unit="perplexity")
        for steering, after in zip(steerings, measured[1:], strict=True)
    ]
