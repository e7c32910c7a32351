"""The whole world from one seed: people, facts, lies, requests, and their splits."""

from dataclasses import dataclass

from probes.organism.facts import People, Person, Split, make_people
from probes.organism.requests import Request, make_requests


@dataclass(frozen=True)
class World:
    """What there is to know and to do.

    Attributes:
        seed: What it was drawn from.
        people: Everybody, with facts and lies.
        requests: Requests of each split; no verb-object pair is in two of them.
    """

    seed: int
    people: People
    requests: dict[Split, tuple[Request, ...]]

    def lie(self, person: Person, attribute: str) -> str:
        """The one lie about ``attribute`` of a known person: a function of the truth."""
        return self.people.lies[attribute, person.truth(attribute)]

    def known(self, split: Split) -> tuple[Person, ...]:
        """Known people of one split of the probe data."""
        return tuple(p for p in self.people.known if p.split == split)

    def unknown(self, split: Split) -> tuple[Person, ...]:
        """People without facts: thin ones for training, never seen ones otherwise."""
        return tuple(p for p in self.people.thin + self.people.unseen if p.split == split)


def make_world(seed: int = 0) -> World:
    """Draw the world; the same seed gives the same world."""
    return World(seed, make_people(seed), make_requests(seed))
