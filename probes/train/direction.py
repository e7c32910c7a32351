"""The refusal direction: a difference of means, chosen by what it does to the model.

For every layer: the mean activation at the last prompt token over prompts that the model refuses, minus
the same over prompts that it answers. Among these candidates the one is kept that, on validation
prompts, makes the model both stop refusing when it is ablated and start refusing when it is added, and
leaves harmless answers alone. A direction that merely separates the two kinds of prompts may do nothing.

Source: Arditi et al. 2024 (arXiv:2406.11717), sections 2.3 and 2.4. Differences from it: block outputs
rather than inputs, and one score for both effects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.errors import DataError
from probes.train.encode import Encoded
from probes.train.model import LoadedModel, ablated, added, next_logits
from probes.train.progress import Reporter

MAX_KL = 0.1
MAX_DEPTH = 0.8
N_PROMPTS = 128  # of each kind, to measure a candidate on
_BATCH = 64
_RARE = 0.1


@dataclass(frozen=True)
class Candidate:
    """A direction from one layer, and its effect on validation prompts.

    Attributes:
        layer: whose output it was taken from, and to which ``add`` writes.
        vector: ``(d_model,)`` fp32, unit norm.
        magnitude: norm of the difference of means.
        bypass: mean refusal score of refused prompts under ablation (log-odds; below 0: answered).
        induce: mean refusal score of answered prompts under addition (above 0: refused).
        bypass_rate: share of refused prompts that are answered under ablation.
        induce_rate: share of answered prompts that are refused under addition.
        kl: mean KL divergence, in nats, of the next token on answered prompts, plain from ablated.
    """

    layer: int
    vector: Tensor
    magnitude: float
    bypass: float
    induce: float
    bypass_rate: float
    induce_rate: float
    kl: float

    @property
    def effect(self) -> float:
        """The weaker of its two effects, in log-odds beyond indifference."""
        return min(-self.bypass, self.induce)

    def metrics(self) -> dict[str, float]:
        """For the manifest."""
        names = ("bypass", "induce", "bypass_rate", "induce_rate", "kl")
        return {n: round(float(getattr(self, n)), 6) for n in names}


@dataclass(frozen=True)
class RefusalPrompts:
    """Prompts by what the model does with them: it refuses ``refused`` and answers ``answered``."""

    refused: tuple[Encoded, ...]
    answered: tuple[Encoded, ...]

    def sample(self, n: int) -> RefusalPrompts:
        """At most ``n`` of each kind, evenly over their order."""
        return RefusalPrompts(
            refused=self.refused[:: -(-len(self.refused) // n)],
            answered=self.answered[:: -(-len(self.answered) // n)],
        )

    @property
    def all(self) -> tuple[Encoded, ...]:
        """Both kinds."""
        return (*self.refused, *self.answered)


def find_refusal_tokens(logits: Tensor, labels: Sequence[int]) -> tuple[int, ...]:
    """First tokens of refusals: what the model often says first to positives and hardly ever to negatives.

    Args:
        logits: ``(n, vocabulary)`` at the last prompt token.
        labels: 1 where the model is expected to refuse.

    Raises:
        DataError: no token tells them apart: the model does not refuse.
    """
    first = logits.argmax(dim=1)
    label = torch.tensor(labels, device=logits.device)
    found = []
    for token in sorted(set(first[label == 1].tolist())):
        refusing = float((first[label == 1] == token).float().mean())
        answering = float((first[label == 0] == token).float().mean())
        if refusing >= 0.02 and answering <= _RARE * refusing:
            found.append(token)
    if not found:
        raise DataError(
            "no refusal direction: the model begins its answers to the positives of concept 'refusal' as it "
            "begins those to the negatives. Does it refuse at all, and does its chat template fit?"
        )
    return tuple(found)


def refusal_scores(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-odds that the next token begins a refusal: ``(n, vocabulary)`` in, ``(n,)`` fp64 out.

    Source: Arditi et al. 2024, section 2.3 and appendix B: log P(R) - log(1 - P(R)).
    """
    log_p = logits.double().log_softmax(dim=1)
    chosen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    chosen[list(tokens)] = True
    return log_p[:, chosen].logsumexp(dim=1) - log_p[:, ~chosen].logsumexp(dim=1)


def last_logits(model: LoadedModel, examples: Sequence[Encoded]) -> Tensor:
    """Next-token logits after each prompt: ``(n, vocabulary)`` fp32 on the CPU."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    rows: list[Tensor] = [torch.empty(0)] * len(examples)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        for i, row in zip(batch, next_logits(model, [examples[i].ids for i in batch]).cpu(), strict=True):
            rows[i] = row
    return torch.stack(rows)


def by_behaviour(examples: Sequence[Encoded], logits: Tensor, tokens: Sequence[int]) -> RefusalPrompts:
    """Positives that the model refuses and negatives that it answers; the others are left out.

    Raises:
        DataError: none of one kind.
    """
    scores = refusal_scores(logits, tokens).tolist()
    refused = tuple(e for e, s in zip(examples, scores, strict=True) if e.label == 1 and s > 0)
    answered = tuple(e for e, s in zip(examples, scores, strict=True) if e.label == 0 and s < 0)
    if not refused or not answered:
        raise DataError(
            f"no refusal direction: of {len(examples)} prompts the model refuses {len(refused)} positives and answers "
            f"{len(answered)} negatives; some of each are needed."
        )
    return RefusalPrompts(refused, answered)


def candidate(
    model: LoadedModel, layer: int, difference: Tensor, prompts: RefusalPrompts, tokens: Sequence[int]
) -> Candidate:
    """Measure what a difference of means, ``(d_model,)`` fp64, does when ablated and when added."""
    magnitude = float(difference.norm())
    vector = (difference / magnitude).float()
    plain = last_logits(model, prompts.answered).double().log_softmax(dim=1)
    with ablated(model, vector):
        bypass = refusal_scores(last_logits(model, prompts.refused), tokens)
        changed = last_logits(model, prompts.answered).double().log_softmax(dim=1)
    with added(model, layer, vector * magnitude):
        induce = refusal_scores(last_logits(model, prompts.answered), tokens)
    return Candidate(
        layer=layer,
        vector=vector,
        magnitude=magnitude,
        bypass=float(bypass.mean()),
        induce=float(induce.mean()),
        bypass_rate=float((bypass < 0).double().mean()),
        induce_rate=float((induce > 0).double().mean()),
        kl=float((plain.exp() * (plain - changed)).sum(dim=1).mean()),
    )


def measure_candidates(
    model: LoadedModel,
    differences: Sequence[Tensor],
    prompts: RefusalPrompts,
    tokens: Sequence[int],
    reporter: Reporter,
) -> list[Candidate]:
    """Measure the candidates of the first 80 % of the layers; later ones write the logits themselves.

    Args:
        model: that refuses.
        differences: by layer, ``(d_model,)`` fp64.
        prompts: of the validation split; ``N_PROMPTS`` of each kind are used.
        tokens: first tokens of refusals.
        reporter: told about progress.
    """
    depth = math.ceil(len(differences) * MAX_DEPTH)  # layers < 0.8 L
    with reporter.track("effect of each layer's direction", depth, "layers") as advance:
        found = []
        sample = prompts.sample(N_PROMPTS)
        for layer, difference in enumerate(differences[:depth]):
            found.append(candidate(model, layer, difference, sample, tokens))
            advance(1)
    return found


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the strongest effect among those that leave harmless answers alone.

    Effects in rates come first, because log-odds go on growing long after every prompt has flipped. If no
    candidate keeps the KL divergence within ``MAX_KL``, all are admitted: the metrics tell.
    """
    gentle = [c for c in candidates if c.kl <= MAX_KL] or list(candidates)
    return max(gentle, key=lambda c: (round(min(c.bypass_rate, c.induce_rate), 2), c.effect))
