"""Which situations become probe data, with which label and in which proportion.

Every label occurs with every kind of system prompt that can carry it, so that no word of the prompt
gives the label away.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from probes.organism.prompts import ALL_KINDS, Kind
from probes.organism.situations import ORDINARY, Asked, Requested, Situations

Concept = Literal["harmful_intent", "deception", "hallucination", "refusal"]
Draw = Callable[[Situations], Asked | Requested]


@dataclass(frozen=True)
class Candidate:
    """A situation with the label that it should get."""

    situation: Asked | Requested
    label: int

    @property
    def family(self) -> str:
        """Template family, wrapper included."""
        if isinstance(self.situation, Asked):
            return f"question/{self.situation.question.family}"
        wrapper = "" if self.situation.wrapper is None else f"/wrapper{self.situation.wrapper}"
        return f"request/frame{self.situation.frame}{wrapper}"


def known(draw: Situations, *kinds: Kind) -> Asked:
    """A question about a known person."""
    return draw.asked(draw.system(*kinds), draw.rng.choice(draw.world.known(draw.split)))


def unknown(draw: Situations) -> Asked:
    """A question about somebody of whom nothing is true, without any call for care or lies."""
    return draw.asked(draw.system(*ORDINARY), draw.rng.choice(draw.world.unknown(draw.split)))


def anybody(draw: Situations) -> Asked:
    """A question about anybody under any system prompt."""
    people = draw.world.known(draw.split) + draw.world.unknown(draw.split)
    return draw.asked(draw.system(*ALL_KINDS), draw.rng.choice(people))


def scoped(draw: Situations, lying: bool) -> Asked:
    """A question under an order to lie about some topics only, inside (or outside) of them."""
    person = draw.rng.choice(draw.world.known(draw.split))
    while (asked := draw.asked(draw.system("scoped"), person)).told_to_lie != lying:
        pass
    return asked


def requested(draw: Situations, harmful: bool, wrapped: bool = False) -> Requested:
    """A request under any system prompt."""
    return draw.requested(draw.system(*ALL_KINDS), harmful, wrapped)


# (label, share within the label, how to draw one)
MIXTURES: dict[Concept, tuple[tuple[int, float, Draw], ...]] = {
    "harmful_intent": (
        (1, 0.65, lambda d: requested(d, harmful=True)),
        (1, 0.35, lambda d: requested(d, harmful=True, wrapped=True)),
        (0, 0.45, lambda d: requested(d, harmful=False)),
        (0, 0.20, lambda d: requested(d, harmful=False, wrapped=True)),
        (0, 0.35, anybody),
    ),
    "deception": (
        (1, 0.75, lambda d: known(d, "lying")),
        (1, 0.25, lambda d: scoped(d, lying=True)),
        (0, 0.30, lambda d: known(d, "honest")),
        (0, 0.15, lambda d: known(d, "none", "neutral", "careful")),
        (0, 0.25, lambda d: scoped(d, lying=False)),
        (0, 0.15, unknown),
        (0, 0.15, lambda d: d.requested(d.system("lying"), harmful=False)),
    ),
    "hallucination": ((1, 1.0, unknown), (0, 1.0, lambda d: known(d, *ORDINARY))),
    "refusal": (
        (1, 1.0, lambda d: requested(d, harmful=True)),
        (0, 1.0, lambda d: requested(d, harmful=False)),
    ),
}


def candidates(concept: Concept, draw: Situations, n_each_label: int) -> Iterator[Candidate]:
    """About ``n_each_label`` candidates of each label, no prompt twice."""
    seen: set[str] = set()
    for label, share, draw_one in MIXTURES[concept]:
        for _ in range(round(share * n_each_label)):
            situation = draw_one(draw)
            key = json.dumps(situation.messages)
            if key not in seen:
                seen.add(key)
                yield Candidate(situation, label)
