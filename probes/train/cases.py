"""Encoded examples as the prompts on which steering is tried."""

from __future__ import annotations

from collections.abc import Sequence

from probes.train.directions.behaviour import Situation, thinned
from probes.train.directions.cast import Prompts
from probes.train.encode import Encoded


def probe_prompts(examples: Sequence[Encoded], most: int) -> Prompts:
    """At most ``most`` prompts of each label, evenly over their order."""
    positives, negatives = (tuple(Situation(e.ids) for e in examples if e.label == label) for label in (1, 0))
    return Prompts(thinned(positives, most), thinned(negatives, most))
