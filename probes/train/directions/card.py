"""The causal card of a direction: everything that its page of the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from probes.cards import DirectionCard, Effect
from probes.train.directions.behaviour import Cases
from probes.train.directions.controls import dose_response, random_control
from probes.train.directions.effects import Judge, Subject, on_behaviour, on_harmless_text
from probes.train.directions.passes import Text
from probes.train.directions.select import Candidate
from probes.train.directions.written import choose_scope, write
from probes.train.progress import Reporter


@dataclass(frozen=True)
class CardSettings:
    """How much is measured.

    Attributes:
        n_random: random directions of the control.
        n_tokens: length of an answer that is written and judged; 0: none is written.
        judge: whether an answer, token ids, shows the behaviour; None: no answer is written.
    """

    n_random: int = 20
    n_tokens: int = 24
    judge: Judge | None = None


def causal_card(
    subject: Subject,
    validation: Cases,
    candidates: Sequence[Candidate],
    chosen: Candidate,
    settings: CardSettings,
    reporter: Reporter,
) -> DirectionCard:
    """Measure a chosen direction on its test cases.

    Args:
        subject: the direction.
        validation: cases on which the positions are chosen at which adding works best.
        candidates: all that were tried. chosen: one of them.
        settings: how much is measured.
        reporter: told about progress.
    """
    effects: list[Effect] = on_behaviour(subject, reporter)
    method = ["difference of means"]
    answers: tuple[Text, ...] = ()
    if settings.judge is not None and settings.n_tokens:
        scope = choose_scope(replace(subject, cases=validation), settings.judge, settings.n_tokens, reporter)
        written = write(subject, settings.judge, settings.n_tokens, reporter)
        effects += written.effects
        answers = written.answers
        method.append(f"add at {scope} positions")
    if not chosen.admissible:
        method.append("no candidate met KL <= 0.1 and induce >= 0, this one is the nearest")
    return DirectionCard(
        concept=subject.behaviour.name,
        method="; ".join(method),
        layer=subject.layer,
        position=chosen.difference.position,
        candidates=tuple(c.reported(chosen=c is chosen) for c in candidates),
        effects=(*effects, *on_harmless_text(subject, answers, reporter)),
        random=tuple(random_control(subject, settings.n_random, reporter)),
        dose=tuple(dose_response(subject, reporter)),
    )


def with_effects(card: DirectionCard, effects: Sequence[Effect]) -> DirectionCard:
    """The card with further effects: on probes that were trained after the direction, or under a condition."""
    return card.model_copy(update={"effects": (*card.effects, *effects)})
