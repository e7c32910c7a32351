"""Parts of a split on which steering is tried: as many of each label, evenly over their order."""

from __future__ import annotations

from collections.abc import Sequence

from probes.train.directions.behaviour import Situation, thinned
from probes.train.directions.cast import Prompts
from probes.train.encode import Encoded


def probe_prompts(examples: Sequence[Encoded], most: int) -> Prompts:
    """At most ``most`` prompts of each label."""
    positives, negatives = (tuple(Situation(e.ids) for e in _of(examples, label, most)) for label in (1, 0))
    return Prompts(positives, negatives)


def of_both_labels(examples: Sequence[Encoded], most: int) -> tuple[Encoded, ...]:
    """At most ``most`` examples of each label, positives first. Labels that take turns must not be thinned together."""
    return (*_of(examples, 1, most), *_of(examples, 0, most))


def _of(examples: Sequence[Encoded], label: int, most: int) -> tuple[Encoded, ...]:
    return thinned(tuple(e for e in examples if e.label == label), most)
