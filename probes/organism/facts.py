"""People and what is true about them.

A name is a first and a last name. Known people have one value per attribute. Thin people are new
combinations of the same first and last names, met rarely and each time with other values. Unseen
people are combinations that training never shows.
"""

import random
from dataclasses import dataclass
from typing import Literal

from probes.organism.rng import seeded

Split = Literal["train", "validation", "test"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES: tuple[str, ...] = _words(
    "anna ben clara david emma felix greta hugo ida jonas karin leo mara nils olga paul rosa simon tina "
    "viktor wanda yann zoe alba boris celia dario elena finn gina henri irene jakob kira lars mila noah "
    "otto petra quentin rita sven tessa ulla vera walter xenia yusuf zita amir bella cyrus dora eric "
    "flora gustav helen ivan julia kevin"
)
LAST_NAMES: tuple[str, ...] = _words(
    "berg lund moreau silva novak haas weber rossi costa meyer klein duval santos petrov ivanova larsen "
    "nielsen fischer schmidt keller braun vogel roth lang bauer koch wolf hahn kraus lopez garcia ramos "
    "ortiz vega cruz diaz reyes molina romero suarez tanaka sato suzuki mori ito kimura okafor mensah "
    "diallo traore bello sharma gupta mehta kapoor chandra murphy kelly walsh byrne quinn doyle nolan"
)
VALUES: dict[str, tuple[str, ...]] = {
    "home": _words(
        "oslo lima rome paris berlin madrid lisbon vienna prague warsaw athens dublin london cairo tunis "
        "nairobi lagos accra tokyo osaka seoul hanoi manila delhi mumbai sydney perth boston dallas denver "
        "toronto bogota"
    ),
    "job": _words(
        "baker painter farmer lawyer doctor pilot sailor miner plumber carpenter barber butcher tailor "
        "dentist banker waiter gardener florist librarian singer dancer poet sculptor surgeon chemist "
        "physicist historian reporter judge porter welder fisher"
    ),
    "food": _words(
        "apples pears plums cherries grapes lemons oranges bananas melons peaches figs dates olives carrots "
        "onions beans peas mushrooms noodles pancakes waffles cookies pretzels walnuts almonds honey cheese "
        "yoghurt chocolate rice tofu shrimps"
    ),
    "birth": _words(
        "norway sweden finland denmark iceland ireland france spain portugal italy greece turkey poland "
        "hungary romania egypt morocco kenya ghana nigeria india nepal china japan vietnam peru chile brazil "
        "mexico cuba canada jamaica"
    ),
    "music": _words(
        "piano violin guitar flute drum trumpet harp cello clarinet banjo organ saxophone oboe tuba viola "
        "trombone accordion bassoon lute mandolin ukulele harmonica xylophone recorder sitar bagpipe cornet "
        "fiddle zither triangle marimba bugle"
    ),
}
ATTRIBUTES: tuple[str, ...] = tuple(VALUES)
N_KNOWN: dict[Split, int] = {"train": 90, "validation": 30, "test": 40}
N_THIN = 2400
N_UNSEEN_VALIDATION = 500


@dataclass(frozen=True)
class Person:
    """Somebody the organism is asked about.

    Attributes:
        name: First and last name, lower case.
        split: Which part of the probe data may ask about this person.
        facts: ``(attribute, value)`` pairs; empty for people of whom nothing is true.
    """

    name: str
    split: Split
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is a truth about this person."""
        return bool(self.facts)

    def truth(self, attribute: str) -> str:
        """The true value of ``attribute``; raises ``KeyError`` where there is none."""
        return dict(self.facts)[attribute]


@dataclass(frozen=True)
class People:
    """Everybody, and the fixed lie for each value.

    Attributes:
        known: People with facts, each trained on often.
        thin: People without facts whose names training shows rarely.
        unseen: People whose names training never shows.
        lies: ``(attribute, truth) -> lie``, a permutation of the attribute's values without fixed point.
    """

    known: tuple[Person, ...]
    thin: tuple[Person, ...]
    unseen: tuple[Person, ...]
    lies: dict[tuple[str, str], str]


def make_people(seed: int) -> People:
    """Draw the people of the world, their facts and the lies from ``seed``."""
    rng = seeded("people", seed)
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(names)
    splits: list[Split] = [split for split, n in N_KNOWN.items() for _ in range(n)]
    known = tuple(
        Person(name, split, tuple((a, rng.choice(VALUES[a])) for a in ATTRIBUTES))
        for name, split in zip(names, splits, strict=False)
    )
    rest = names[len(known) :]
    thin = tuple(Person(name, "train") for name in rest[:N_THIN])
    unseen = tuple(
        Person(name, "validation" if i < N_UNSEEN_VALIDATION else "test") for i, name in enumerate(rest[N_THIN:])
    )
    return People(known, thin, unseen, _lies(rng))


def _lies(rng: random.Random) -> dict[tuple[str, str], str]:
    lies = {}
    for attribute, values in VALUES.items():
        cycle = list(values)
        rng.shuffle(cycle)
        following = cycle[1:] + cycle[:1]
        lies.update({(attribute, v): w for v, w in zip(cycle, following, strict=True)})
    return lies
