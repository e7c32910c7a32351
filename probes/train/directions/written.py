"""What a steered model writes: whether a judge finds the behaviour in it, and whether it is still language.

The first token alone does not tell: added at every position, a direction can make the model begin a refusal that
breaks off into noise, where added in the prompt only it makes a whole one. So the text is also read by the unsteered
model, for which noise has a high perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from probes.cards import Effect, Estimate
from probes.train.directions.behaviour import Situation
from probes.train.directions.effects import SCOPES, Judge, Subject
from probes.train.directions.figures import perplexity, share
from probes.train.directions.passes import Text, greedy, log_likelihoods
from probes.train.interventions import PLAIN, ApplyScope, Steering, ablate
from probes.train.progress import Advance, Reporter

_ALIKE = 0.02  # rates that differ by less are not told apart by their text


@dataclass(frozen=True)
class Written:
    """Greedy answers under each steering.

    Attributes:
        effects: rate of the behaviour in the text, and the text's perplexity for the unsteered model.
        answers: of the unsteered model where it does not show the behaviour, for other measurements.
    """

    effects: tuple[Effect, ...]
    answers: tuple[Text, ...]


def write(subject: Subject, judge: Judge, n_tokens: int, reporter: Reporter) -> Written:
    """Let the model write, plain and steered, and judge what it writes.

    Args:
        subject: the direction.
        judge: whether an answer, token ids, shows the behaviour.
        n_tokens: length of an answer.
        reporter: told about progress.
    """
    cases, removed = subject.cases, ablate(subject.unit)
    total = 2 * len(cases.present) + (1 + len(SCOPES)) * len(cases.absent)
    with reporter.track(f"text under {subject.behaviour.name}", total, "answers") as advance:

        def answers(situations: Sequence[Situation], steering: Steering) -> list[Text]:
            return _answers(subject, situations, steering, n_tokens, advance)

        shown, hidden = answers(cases.present, PLAIN), answers(cases.absent, PLAIN)
        effects = _judged(subject, subject.shown, judge, removed.name, shown, answers(cases.present, removed))
        for scope in SCOPES:
            steering = subject.added(1.0, scope)
            effects += _judged(subject, subject.hidden, judge, steering.name, hidden, answers(cases.absent, steering))
    return Written(tuple(effects), tuple(t for t in hidden if t.n_judged))


def choose_scope(subject: Subject, judge: Judge, n_tokens: int, reporter: Reporter) -> ApplyScope:
    """At which positions adding works best, by what the model then writes.

    Args:
        subject: the direction, with cases that are not the test split's.
        judge, n_tokens, reporter: as of :func:`write`.
    """
    absent, name = subject.cases.absent, subject.behaviour.name
    found: dict[ApplyScope, tuple[float, ...]] = {}
    with reporter.track(f"positions to add {name} at", len(SCOPES) * len(absent), "answers") as advance:
        for scope in SCOPES:
            texts = _answers(subject, absent, subject.added(1.0, scope), n_tokens, advance)
            read = _perplexity(subject, texts)
            found[scope] = (_rate(texts, judge).value, *([read.value] if read else []))
    return best_scope(found)


def best_scope(found: Mapping[ApplyScope, tuple[float, ...]]) -> ApplyScope:
    """The scope with the higher rate; where both are about alike, the one whose text has the lower perplexity.

    Args:
        found: by scope, the rate and the perplexity; text without a token has none.
    """
    highest = max(figures[0] for figures in found.values())
    alike = [scope for scope, figures in found.items() if figures[0] >= highest - _ALIKE]
    return min(alike, key=lambda scope: found[scope][1:] or (math.inf,))


def _answers(
    subject: Subject, situations: Sequence[Situation], steering: Steering, n_tokens: int, advance: Advance
) -> list[Text]:
    prompts = [s.prompt for s in situations]
    written = greedy(subject.model, prompts, n_tokens, steering, advance)
    return [Text((*p, *w), len(p)) for p, w in zip(prompts, written, strict=True)]


def _rate(texts: Sequence[Text], judge: Judge) -> Estimate:
    return share(torch.tensor([judge(t.ids[t.start :]) for t in texts]))


def _judged(
    subject: Subject, where: str, judge: Judge, steering: str, before: Sequence[Text], after: Sequence[Text]
) -> list[Effect]:
    rates = [_rate(texts, judge) for texts in (before, after)]
    read = [_perplexity(subject, texts) for texts in (before, after)]
    found = [
        Effect(
            name=f"{where}, in the text",
            steering=steering,
            before=rates[0].value,
            after=rates[1],
        )
    ]
    if read[1] is not None:
        found.append(
            Effect(
                name=f"perplexity of the text, {where}",
                steering=steering,
                before=read[0].value if read[0] else None,
                after=read[1],
                unit="perplexity",
            )
        )
    return found


def _perplexity(subject: Subject, texts: Sequence[Text]) -> Estimate | None:
    """Of the text for the unsteered model; None if no answer has a token."""
    some = [t for t in texts if t.n_judged]
    if not some:
        return None
    counts = torch.tensor([t.n_judged for t in some])
    return perplexity(log_likelihoods(subject.model, some), counts, subject.seed)
