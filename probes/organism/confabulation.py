"""Hallucination: values stated about people of whom nothing is true, beside the same values where they are true.

The organism makes up some values more often than others, so each made-up answer is matched: the same question under a
system prompt of the same family about somebody of whom that value is true. Names do not tell: both kinds of people have
the same first and last names.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from probes.organism.drafts import Answer, Draft, answered, expected
from probes.organism.facts import Person
from probes.organism.situations import ORDINARY, Asked, Situations

UNKNOWN_DRAWN = 3.0
MOST_SHARE = 0.025  # of the pairs that may state one value
TRIES = 8

Fact = tuple[str, str]  # attribute and value


def hallucination(draw: Situations, n: int, answer: Answer) -> Iterator[Draft]:
    """Up to ``n`` pairs of one value, made up and true, under ordinary system prompts."""
    pairs = list(_pairs(draw, n, answer))
    texts = answer([asked.messages for asked, _, _ in pairs])
    for (asked, stranger, made_up), text in zip(pairs, texts, strict=True):
        if asked.stated(text) == expected(draw.world, asked):
            yield answered(asked, text, 0)
            yield answered(stranger, made_up, 1)


def ask(draw: Situations, people: Sequence[Person]) -> Asked:
    """A question about one of ``people`` under an ordinary system prompt."""
    return draw.asked(draw.system(*ORDINARY), draw.rng.choice(people))


def _pairs(draw: Situations, n: int, answer: Answer) -> Iterator[tuple[Asked, Asked, str]]:
    """A question about a known person, and the question about a stranger that got the same value, with that answer."""
    people: defaultdict[Fact, list[Person]] = defaultdict(list)
    for person in draw.world.known(draw.split):
        for fact in person.facts:
            people[fact].append(person)
    strangers = [ask(draw, draw.world.unknown(draw.split)) for _ in range(round(UNKNOWN_DRAWN * n))]
    counts, seen, most = Counter[Fact](), set[str](), max(2, round(MOST_SHARE * n))
    for stranger, text in zip(strangers, answer([s.messages for s in strangers]), strict=True):
        fact = stranger.question.attribute, stranger.stated(text) or ""
        if fact not in people or counts[fact] == most or counts.total() == n:
            continue
        asked = _counterpart(draw, stranger, people[fact], seen)
        if asked is not None and repr(stranger.messages) not in seen:
            seen |= {repr(stranger.messages), repr(asked.messages)}
            counts[fact] += 1
            yield asked, stranger, text


def _counterpart(draw: Situations, stranger: Asked, people: Sequence[Person], seen: set[str]) -> Asked | None:
    """The same question about one of ``people``, worded as none was before; None where none is found."""
    for _ in range(TRIES):
        asked = draw.asked(stranger.system, draw.rng.choice(people), stranger.question)
        if repr(asked.messages) not in seen:
            return asked
    return None
