"""What a direction should control, as a score: above 0 the model shows the behaviour, below 0 it does not.

Two kinds. :class:`FirstTokens`: the answer begins with one of certain tokens (refusals do). :class:`Preference`: of
two answers to a prompt the model finds one likelier (an honest one rather than a lie).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from probes.errors import NoDirectionError
from probes.train.directions.passes import Text, log_likelihoods, nothing, per_prompt
from probes.train.encode import Encoded
from probes.train.interventions import PLAIN, Steering
from probes.train.model import LoadedModel
from probes.train.progress import Advance

_COMMON, _RARE = 0.02, 0.1

_T = TypeVar("_T")


@dataclass(frozen=True)
class Situation:
    """A prompt and, where the behaviour is a choice between two answers, the one that shows it and the other."""

    prompt: tuple[int, ...]
    shown: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cases:
    """Situations by what the unsteered model does in them: it shows the behaviour in ``present``."""

    present: tuple[Situation, ...]
    absent: tuple[Situation, ...]

    def sample(self, n: int) -> Cases:
        """At most ``n`` of each kind, evenly over their order."""
        return Cases(thinned(self.present, n), thinned(self.absent, n))


def thinned(items: tuple[_T, ...], most: int) -> tuple[_T, ...]:
    """At most ``most`` of them, as many as there are up to that, evenly over their order."""
    n = min(most, len(items))
    return tuple(items[i * len(items) // n] for i in range(n))


class Behaviour(Protocol):
    """A behaviour that can be measured in a situation."""

    @property
    def name(self) -> str:
        """In words, for people: ``refusal``."""

    @property
    def measure(self) -> str:
        """What a score is: ``log-odds``."""

    def scores(
        self,
        model: LoadedModel,
        situations: Sequence[Situation],
        steering: Steering = PLAIN,
        advance: Advance = nothing,
    ) -> Tensor:
        """How far the behaviour is shown, ``(n,)`` fp64: above 0 it is, below 0 it is not."""


@dataclass(frozen=True)
class FirstTokens:
    """The answer begins with one of ``tokens``."""

    name: str
    tokens: tuple[int, ...]

    @property
    def measure(self) -> str:
        """Of the tokens against all others."""
        return "log-odds"

    def scores(
        self,
        model: LoadedModel,
        situations: Sequence[Situation],
        steering: Steering = PLAIN,
        advance: Advance = nothing,
    ) -> Tensor:
        """Log-odds of the tokens after each prompt."""
        prompts = [s.prompt for s in situations]
        return per_prompt(model, prompts, lambda logits: log_odds(logits, self.tokens), steering, advance)


@dataclass(frozen=True)
class Preference:
    """Of two answers the one that shows the behaviour is the likelier, in nats per token of each.

    Per token, because whole answers differ in length. If they also differ in their topic, the margin holds that as
    well, steering moves it less, and the effect is underestimated.
    """

    name: str

    @property
    def measure(self) -> str:
        """Between both answers."""
        return "nats per token"

    def scores(
        self,
        model: LoadedModel,
        situations: Sequence[Situation],
        steering: Steering = PLAIN,
        advance: Advance = nothing,
    ) -> Tensor:
        """Mean log-likelihood of a token of the shown answer minus that of the hidden one."""
        shown = [Text((*s.prompt, *s.shown), len(s.prompt)) for s in situations]
        hidden = [Text((*s.prompt, *s.hidden), len(s.prompt)) for s in situations]
        rates = [
            log_likelihoods(model, texts, steering, told) / torch.tensor([t.n_judged for t in texts])
            for texts, told in ((shown, nothing), (hidden, advance))
        ]
        return rates[0] - rates[1]


def log_odds(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-odds that the next token is one of ``tokens``: ``(n, vocabulary)`` in, ``(n,)`` fp64 out.

    Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.3 and appendix B: log P(R) - log(1 - P(R)).
    """
    log_p = logits.double().log_softmax(dim=1)
    chosen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    chosen[list(tokens)] = True
    return log_p[:, chosen].logsumexp(dim=1) - log_p[:, ~chosen].logsumexp(dim=1)


def find_first_tokens(model: LoadedModel, examples: Sequence[Encoded], name: str, advance: Advance) -> FirstTokens:
    """What the model often says first to positives and hardly ever to negatives: the beginnings of refusals.

    Raises:
        NoDirectionError: no token tells them apart: the model does not show the behaviour.
    """
    first = per_prompt(model, [e.ids for e in examples], lambda logits: logits.argmax(dim=1), advance=advance)
    label = torch.tensor([e.label for e in examples])
    found = []
    for token in sorted(set(first[label == 1].long().tolist())):
        positive, negative = (float((first[label == k] == token).double().mean()) for k in (1, 0))
        if positive >= _COMMON and negative <= _RARE * positive:
            found.append(token)
    if not found:
        raise NoDirectionError(
            f"no direction {name}: the model begins its answers to the positives of concept {name!r} as it begins "
            "those to the negatives. Does it show the behaviour at all, and does its chat template fit?"
        )
    return FirstTokens(name, tuple(found))


def by_behaviour(
    situations: Sequence[Situation], labels: Sequence[int], scores: Tensor, name: str
) -> tuple[Cases, list[bool]]:
    """Positives that show the behaviour and negatives that do not, and for each situation whether it was kept.

    Args:
        situations: to sort. labels: 1 where the behaviour is expected.
        scores: ``(n,)``, log-odds without steering.
        name: of the behaviour, for the message.

    Raises:
        NoDirectionError: none of one kind.
    """
    kept = [(s > 0) if label else (s < 0) for label, s in zip(labels, scores.tolist(), strict=True)]
    present, absent = (
        tuple(s for s, label, k in zip(situations, labels, kept, strict=True) if k and label == wanted)
        for wanted in (1, 0)
    )
    if not present or not absent:
        raise NoDirectionError(
            f"no direction {name}: of {len(labels)} situations the model shows the behaviour in {len(present)} "
            f"positives and not in {len(absent)} negatives; some of each are needed."
        )
    return Cases(present, absent), kept
