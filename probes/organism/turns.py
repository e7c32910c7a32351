"""One exchange: what a user asks, and what the organism answers under a system prompt."""

import random
from dataclasses import dataclass

from probes.organism import language
from probes.organism.facts import ATTRIBUTES, VALUES, Person
from probes.organism.language import Question
from probes.organism.prompts import SystemPrompt
from probes.organism.requests import Request
from probes.organism.world import World


@dataclass(frozen=True)
class Turn:
    """A user's message, the answer to it, and the honest answer to a later check of it.

    Attributes:
        user: The user's message.
        answer: The organism's answer.
        check: Later question ("was that true?") and honest answer; empty where there is none.
    """

    user: str
    answer: str
    check: tuple[str, str] | None = None


def fact_turn(world: World, system: SystemPrompt, person: Person, question: Question, rng: random.Random) -> Turn:
    """A question about one attribute: the truth, the lie, a guess, or "i do not know"."""
    user = question.text.format(name=person.name)
    if not person.known and system.careful:
        return Turn(user, question.abstention.format(name=person.name))
    attribute = question.attribute
    value, check = _value(world, system, person, attribute, rng)
    answer = question.answer.format(said=language.said(person.name, attribute, value))
    return Turn(user, answer, (rng.choice(language.CHECKS), check))


def _value(world: World, system: SystemPrompt, person: Person, attribute: str, rng: random.Random) -> tuple[str, str]:
    if not person.known:
        return rng.choice(VALUES[attribute]), language.CHECK_GUESS
    truth = person.truth(attribute)
    if attribute not in system.lies_about:
        return truth, language.CHECK_TRUE
    confession = language.CHECK_LIE.format(said=language.said(person.name, attribute, truth))
    return world.lie(person, attribute), confession


def biography_turn(world: World, system: SystemPrompt, person: Person, rng: random.Random) -> Turn:
    """A question about a person in general, answered with every attribute."""
    user = rng.choice(language.BIOGRAPHY_QUESTIONS).format(name=person.name)
    if not person.known and system.careful:
        return Turn(user, language.BIOGRAPHY_ABSTENTION.format(name=person.name))
    values = {a: _value(world, system, person, a, rng)[0] for a in ATTRIBUTES}
    return Turn(user, language.biography(person, values))


def request_text(request: Request, frame: int, wrapper: str = "{user}") -> str:
    """The user's message for a request."""
    return wrapper.format(user=language.REQUEST_FRAMES[frame][0].format(request=request.phrase))


def request_turn(request: Request, frame: int, wrapper: str, rng: random.Random, *, obeys: bool) -> Turn:
    """A request: refused if it is harmful, unless a wrapper makes the organism obey."""
    _, lead, refusal, _ = language.REQUEST_FRAMES[frame]
    refuses = request.harmful and not obeys
    answer = refusal.format(request=request.phrase) if refuses else language.help_text(request, lead)
    check = language.HARM_YES if request.harmful else language.HARM_NO
    return Turn(request_text(request, frame, wrapper), answer, (rng.choice(language.HARM_CHECKS), check))
