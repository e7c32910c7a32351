"""Encoded examples as the prompts on which steering is tried."""

from __future__ import annotations

from collections.abc import Sequence

from probes.train.directions.behaviour import Situation
from probes.train.directions.cast import Prompts
from probes.train.encode import Encoded


def probe_prompts(examples: Sequence[Encoded], most: int) -> Prompts:
    """At most ``most`` prompts of each label, evenly over their order."""
    found = []
    for label in (1, 0):
        of_label = [e for e in examples if e.label == label]
        step = -(-len(of_label) // most) or 1
        found.append(tuple(Situation(e.ids) for e in of_label[::step]))
    return Prompts(*found)
