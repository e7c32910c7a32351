"""From labelled examples to a direction with its causal card.

1. What the model does: for concepts about prompts the first tokens by which it answers positives only (refusals);
   for concepts about responses which of a pair's answers it prefers. Examples where it does otherwise are left out.
2. Differences of means on the training split, measured and chosen on the validation split.
3. The causal card, on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.cards import DirectionCard
from probes.errors import DataError
from probes.train.checkpoint import Result
from probes.train.collect import Activations
from probes.train.data import Example, Split
from probes.train.directions.behaviour import (
    Behaviour,
    Cases,
    FirstTokens,
    Preference,
    Situation,
    by_behaviour,
    find_first_tokens,
)
from probes.train.directions.card import CardSettings, causal_card
from probes.train.directions.contrast import find_pairs, situations
from probes.train.directions.effects import Judge, Subject
from probes.train.directions.means import Difference, at_positions, over_responses
from probes.train.directions.select import N_PROMPTS, Candidate, choose, measure, measure_all
from probes.train.encode import Encoded
from probes.train.model import LoadedModel
from probes.train.progress import Reporter
from probes.types import Direction

EncodedSplits = Mapping[Split, Sequence[Encoded]]
_WEAK = 0.5


@dataclass(frozen=True)
class DirectionSettings:
    """How one direction is found.

    Attributes:
        concept: of the examples; also the direction's name.
        seed: of bootstrap and random directions.
        n_cases: test situations of each kind at most.
        n_random: random directions of the control.
        n_tokens: length of the answers that are written and judged; 0: none.
        max_parameters: of the model; in a larger one no answers are written.
        judge: whether an answer, as text, shows the behaviour. None: it does if its first token says so, which only
            concepts about prompts have.
    """

    concept: str
    seed: int = 0
    n_cases: int = 512
    n_random: int = 20
    n_tokens: int = 24
    max_parameters: int = 1_000_000_000
    judge: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class FoundDirection:
    """A direction, its unit vector ``(d_model,)`` fp32, and what it does."""

    direction: Direction
    vector: Tensor
    card: DirectionCard

    def result(self) -> Result:
        """For a checkpoint."""
        facts: dict[str, object] = {
            "direction": self.direction.model_dump(mode="json"),
            "card": self.card.model_dump(mode="json"),
        }
        return facts, {"vector": self.vector}

    @classmethod
    def read(cls, result: Result) -> FoundDirection:
        """From a checkpoint."""
        facts, tensors = result
        return cls(
            Direction.model_validate(facts["direction"]), tensors["vector"], DirectionCard.model_validate(facts["card"])
        )


@dataclass(frozen=True)
class _Evidence:
    """What is known about a concept in this model before any candidate is tried.

    ``kept``: in how many test situations the model behaves as they are labelled, for people; only those count.
    """

    behaviour: Behaviour
    cases: Mapping[Split, Cases]
    differences: list[Difference]
    kept: str


def find_direction(
    model: LoadedModel,
    splits: EncodedSplits,
    activations_of: Callable[[Split], Activations],
    reporter: Reporter,
    settings: DirectionSettings,
    examples: Mapping[Split, Sequence[Example]] | None = None,
) -> FoundDirection:
    """Find and judge the direction of one concept.

    Args:
        model: that shows the behaviour.
        splits: encoded examples of the concept.
        activations_of: activations of the positions in scope, every layer; only the training split's are asked for.
        reporter: told about progress and about what was found.
        settings: concept and extent.
        examples: behind ``splits``, in the same order, which tell pairs; needed for concepts about responses.

    Raises:
        NoDirectionError: the model does not show the behaviour, or not in examples of both labels.
    """
    phase = splits["train"][0].scope.phase
    if phase == "response" and examples is None:
        raise DataError(f"no direction {settings.concept}: its pairs of responses are told by its examples; pass them.")
    evidence = (
        _about_prompts(model, splits, activations_of, reporter, settings.concept)
        if examples is None or phase == "prompt"
        else _about_responses(model, splits, examples, activations_of, reporter, settings.concept)
    )
    candidates = measure_all(model, evidence.differences, evidence.behaviour, evidence.cases["validation"], reporter)
    best = choose(candidates)
    found, test = best.difference, evidence.cases["test"].sample(settings.n_cases)
    figures = measure(model, found, evidence.behaviour, test)
    direction = Direction(
        name=settings.concept,
        concept=settings.concept,
        layer=found.layer,
        magnitude=found.magnitude,
        position=found.position,
        metrics={**figures.figures, "origin": round(found.origin, 6)},
    )
    _tell(figures, best, settings.concept, reporter)
    subject = Subject(
        model, evidence.behaviour, test, found.layer, found.unit, found.magnitude, found.origin, settings.seed
    )
    extent = CardSettings(settings.n_random, settings.n_tokens, _judge(model, evidence.behaviour, settings, reporter))
    validation = evidence.cases["validation"].sample(N_PROMPTS)
    card = causal_card(subject, validation, candidates, best, extent, reporter)
    card = card.model_copy(update={"method": f"{card.method}; {evidence.kept}"})
    return FoundDirection(direction, found.unit, card)


def _about_prompts(
    model: LoadedModel,
    splits: EncodedSplits,
    activations_of: Callable[[Split], Activations],
    reporter: Reporter,
    concept: str,
) -> _Evidence:
    train = splits["train"]
    n_prompts = len(train) + sum(map(len, splits.values()))
    with reporter.track(f"{concept}: first tokens", n_prompts, "prompts") as advance:
        behaviour = find_first_tokens(model, train, concept, advance)
        cases, kept, labels = {}, {}, {}
        for split, encoded in splits.items():
            prompts, labels[split] = [Situation(e.ids) for e in encoded], [e.label for e in encoded]
            scores = behaviour.scores(model, prompts, advance=advance)
            cases[split], kept[split] = by_behaviour(prompts, labels[split], scores, concept)
    chosen = {
        label: torch.tensor([k and e.label == label for e, k in zip(train, kept["train"], strict=True)])
        for label in (0, 1)
    }
    activations = activations_of("train")
    found = at_positions(activations, len(model.layers), chosen, reporter)
    return _Evidence(behaviour, cases, found, _kept(cases["test"], labels["test"], "prompts"))


def _about_responses(
    model: LoadedModel,
    splits: EncodedSplits,
    examples: Mapping[Split, Sequence[Example]],
    activations_of: Callable[[Split], Activations],
    reporter: Reporter,
    concept: str,
) -> _Evidence:
    behaviour = Preference(concept)
    pairs = {split: find_pairs(found) for split, found in examples.items()}
    cases, kept, labels = {}, {}, {}
    with reporter.track(f"{concept}: preferences", 2 * sum(map(len, pairs.values())), "situations") as advance:
        for split, encoded in splits.items():
            choices, labels[split] = situations(encoded, pairs[split])
            scores = behaviour.scores(model, choices, advance=advance)
            cases[split], kept[split] = by_behaviour(choices, labels[split], scores, concept)
    chosen = {label: torch.zeros(len(splits["train"]), dtype=torch.bool) for label in (0, 1)}
    for pair, both in zip(pairs["train"], zip(kept["train"][::2], kept["train"][1::2], strict=True), strict=True):
        for label, i in zip((1, 0), pair, strict=True):
            chosen[label][i] = all(both)
    activations = activations_of("train")
    found = over_responses(activations, len(model.layers), chosen, reporter)
    n_pairs, n = len(pairs["test"]), len(splits["test"])
    of = f"situations, two for each of {n_pairs} pairs among {n} examples,"
    return _Evidence(behaviour, cases, found, _kept(cases["test"], labels["test"], of))


def _kept(cases: Cases, labels: Sequence[int], of: str) -> str:
    n_positive = sum(labels)
    return (
        f"of the test {of} those count in which the model does as labelled: {len(cases.present)} of {n_positive} "
        f"positives, {len(cases.absent)} of {len(labels) - n_positive} negatives"
    )


def _judge(model: LoadedModel, behaviour: Behaviour, settings: DirectionSettings, reporter: Reporter) -> Judge | None:
    """How answers are judged; None if none are to be written."""
    n_parameters = sum(p.numel() for p in model.network.parameters())
    if n_parameters > settings.max_parameters:
        reporter.say(
            f"direction {settings.concept}: no answers are written, the model has {n_parameters / 1e9:.1f} billion "
            f"parameters and the limit is {settings.max_parameters / 1e9:.1f}"
        )
        return None
    if (by_text := settings.judge) is not None:
        return lambda ids: by_text(model.tokenizer.decode(list(ids), skip_special_tokens=True))
    if isinstance(behaviour, FirstTokens):
        tokens = set(behaviour.tokens)
        return lambda ids: bool(ids) and ids[0] in tokens
    return None


def _tell(figures: Candidate, chosen: Candidate, concept: str, reporter: Reporter) -> None:
    found = chosen.difference
    reporter.say(
        f"direction {concept}: layer {found.layer}, {found.position}; ablated, {figures.bypass_rate:.0%} of positives "
        f"lose the behaviour; added, {figures.induce_rate:.0%} of negatives show it (test split)"
    )
    if min(figures.bypass_rate, figures.induce_rate) < _WEAK or not chosen.admissible:
        reporter.say(
            f"warning: the direction {concept} does not control the behaviour in this model, or disturbs harmless "
            "answers; steering with it will disappoint. More than one direction may mediate it. The card has every "
            "candidate's effect"
        )
