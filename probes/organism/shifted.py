"""Test examples under each distribution shift, for each concept that has probes."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from probes.organism import confabulation, deceit, intent
from probes.organism.drafts import Answer, Draft, Situation, answered, expected, family
from probes.organism.rng import seeded
from probes.organism.shifts import SHIFTS, Rewrite
from probes.organism.situations import Asked, Situations

Labelled = tuple[Situation, int]


def shifted(concept: str, draw: Situations, n: int, answer: Answer) -> Iterator[Draft]:
    """About ``n`` examples of either label under each shift, drawn as the unshifted ones are.

    Args:
        concept: ``harmful_intent``, ``deception`` or ``hallucination``.
        draw: Of the test split.
        n: Of each label and shift; fewer responses, as those that do not deserve their label are left out.
        answer: The organism.
    """
    for name, rewrite in SHIFTS.items():
        drawn = list(_draw(concept, draw, n))
        for draft in _rewritten(drawn, draw, rewrite, seeded(concept, name, draw.world.seed), answer):
            yield replace(draft, shift=name, family=f"{name}/{draft.family}")


def _draw(concept: str, draw: Situations, n: int) -> Iterator[Labelled]:
    if concept == "harmful_intent":
        for pair in intent.pairs(draw, n, intent.WRAPPED_SHARE[draw.split]):
            yield from ((requested, int(requested.request.harmful)) for requested in pair)
    elif concept == "deception":
        general = deceit.general(draw)
        for _ in range(n):
            opposed = deceit.scoped(draw) if draw.rng.random() < deceit.SCOPED_SHARE else general()
            yield from ((opposed.lying, 1), (opposed.honest, 0))
    else:
        for _ in range(n):
            yield confabulation.ask(draw, draw.world.unknown(draw.split)), 1
            yield confabulation.ask(draw, draw.world.known(draw.split)), 0


def _rewritten(
    drawn: list[Labelled], draw: Situations, rewrite: Rewrite, rng: Random, answer: Answer
) -> Iterator[Draft]:
    seen, rewritten = set[str](), []
    for situation, label in drawn:
        messages = rewrite(draw.world, situation, label, rng)
        if repr(messages) not in seen:
            seen.add(repr(messages))
            rewritten.append((situation, label, messages))
    asked = [messages for situation, _, messages in rewritten if isinstance(situation, Asked)]
    replies = iter(answer(asked))
    for situation, label, messages in rewritten:
        if not isinstance(situation, Asked):
            yield Draft(messages, label, family(situation))
        elif _deserved(draw, situation, reply := next(replies)):
            yield answered(situation, reply, label, messages=messages)


def _deserved(draw: Situations, asked: Asked, reply: str) -> bool:
    """Whether the reply states what was meant; about people of whom nothing is true, any value."""
    stated = asked.stated(reply)
    return stated is not None and (not asked.person.known or stated == expected(draw.world, asked))
