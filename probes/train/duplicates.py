"""The same conversation twice: kept once, or not at all where its labels contradict each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from probes.train.examples import Labelled, messages_hash

NEAR = 0.8  # cosine from which two texts say almost the same


@dataclass(frozen=True)
class Unique:
    """Examples without repetitions.

    Attributes:
        examples: in the order they came, the first of each conversation and concept.
        repeated: how many said nothing new. contradictory: how many conversations had both labels, and were left out.
    """

    examples: tuple[Labelled, ...]
    repeated: int
    contradictory: int


def unique(examples: Iterable[Labelled]) -> Unique:
    """Keep each conversation of a concept once. Annotators who disagree leave nothing to learn: such ones go."""
    first: dict[tuple[str, str], Labelled] = {}
    contradictory: set[tuple[str, str]] = set()
    repeated = 0
    for example in examples:
        key = example.concept, messages_hash(example.messages)
        kept = first.setdefault(key, example)
        if kept.label != example.label:
            contradictory.add(key)
        elif kept is not example:
            repeated += 1
    kept_examples = tuple(example for key, example in first.items() if key not in contradictory)
    return Unique(kept_examples, repeated, len(contradictory))
