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
from probes.train.progress import Reporter

_ALIKE = 0.02  # rates that differ by less are not told apart by their text


@dataclass(frozen=True)
class Written:
    """Greedy answers under each steering.

    Attributes:
        effects: rate of the behaviour in the text, and the text's perplexity for the unsteered model.
        answers: of the unsteered model where it does not show the behaviour, for other measurements.
        scope: at which positions adding works best.
    """

    effects: tuple[Effect, ...]
    answers: tuple[Text, ...]
    scope: ApplyScope


def write(subject: Subject, judge: Judge, n_tokens: int, reporter: Reporter) -> Written:
    """Let the model write, plain and steered, and judge what it writes.

    Args:
        subject: the direction.
        judge: whether an answer, token ids, shows the behaviour.
        n_tokens: length of an answer.
        reporter: told about progress.
    """
    cases, name, removed = subject.cases, subject.behaviour.name, ablate(subject.unit)
    with reporter.track(f"text under {name}", 2 * len(cases.present) + 3 * len(cases.absent), "answers") as advance:

        def answers(situations: Sequence[Situation], steering: Steering) -> list[Text]:
            prompts = [s.prompt for s in situations]
            written = greedy(subject.model, prompts, n_tokens, steering, advance)
            return [Text((*p, *w), len(p)) for p, w in zip(prompts, written, strict=True)]

        shown, hidden = answers(cases.present, PLAIN), answers(cases.absent, PLAIN)
        effects = _judged(subject, subject.shown, judge, removed.name, shown, answers(cases.present, removed))
        by_scope = {}
        for scope in SCOPES:
            steering = subject.added(1.0, scope)
            by_scope[scope] = _judged(
                subject, subject.hidden, judge, steering.name, hidden, answers(cases.absent, steering)
            )
    return Written(
        effects=(*effects, *(e for found in by_scope.values() for e in found)),
        answers=tuple(t for t in hidden if t.n_judged),
        scope=best_scope({scope: tuple(e.after.value for e in found) for scope, found in by_scope.items()}),
    )


def best_scope(found: Mapping[ApplyScope, tuple[float, ...]]) -> ApplyScope:
    """The scope with the higher rate; where both are about alike, the one whose text has the lower perplexity.

    Args:
        found: by scope, the rate and the perplexity; text without a token has none.
    """
    highest = max(figures[0] for figures in found.values())
    alike = [scope for scope, figures in found.items() if figures[0] >= highest - _ALIKE]
    return min(alike, key=lambda scope: found[scope][1:] or (math.inf,))


def _judged(
    subject: Subject, where: str, judge: Judge, steering: str, before: Sequence[Text], after: Sequence[Text]
) -> list[Effect]:
    rates = [torch.tensor([judge(t.ids[t.start :]) for t in texts]).double() for texts in (before, after)]
    read = [_perplexity(subject, texts) for texts in (before, after)]
    found = [
        Effect(
            name=f"{where}, in the text",
            steering=steering,
            before=float(rates[0].mean()),
            after=share(rates[1]),
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
