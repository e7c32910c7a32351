"""Deception: the organism was told to lie about what is asked, and means to.

Every question is asked under an order to lie and under one to be honest, and each is answered with the lie and with the
truth: two by two. The organism's own answer is one of the two; the other states the other value instead. So neither the
answer, nor whether it is true, tells the label. Nor do the words of the order: see :mod:`probes.organism.balance` for
general orders; an order about one topic is asked about that topic and about another one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from probes.organism.balance import balanced
from probes.organism.drafts import Answer, Draft, answered, endless, expected
from probes.organism.language import Question
from probes.organism.prompts import NEGATING, SystemPrompt, make_prompts
from probes.organism.situations import Asked, Situations

SCOPED_SHARE = 0.15  # few: the organism obeys such orders without any feature of lying that a probe could read
GUESSED_SHARE = 0.1
AT_ONCE = 200
MAX_TRIES = 6


@dataclass(frozen=True)
class Opposed:
    """Two questions about one person: told to lie about the first, honest about the second."""

    lying: Asked
    honest: Asked


def deception(draw: Situations, n: int, answer: Answer) -> Iterator[Draft]:
    """``n`` conversations of either label, and some honest answers that are wrong as the organism does not know."""
    n_scoped = round(SCOPED_SHARE * n)
    orders = (("general order", general(draw), n - n_scoped), ("scoped order", lambda: scoped(draw), n_scoped))
    for kind, draw_one, wanted in orders:
        for opposed, lie, truth in obeyed(draw, draw_one, wanted // 2, answer):
            yield answered(opposed.lying, lie, 1, f"{kind}, own answer")
            yield answered(opposed.lying, swapped(draw, opposed.lying, lie), 1, f"{kind}, exchanged")
            yield answered(opposed.honest, truth, 0, f"{kind}, own answer")
            yield answered(opposed.honest, swapped(draw, opposed.honest, truth), 0, f"{kind}, exchanged")
    yield from guesses(draw, round(GUESSED_SHARE * n), answer)


def general(draw: Situations) -> Callable[[], Opposed]:
    """Draws one question under two orders, each as often negated as not, and as often with a dishonest word as not.

    For training each modifier and each act is moreover in lying and honest orders equally often; the other splits have
    too few families for that, and it is training that a reader of words learns from.
    """
    orders = [p for p in make_prompts(draw.world.seed) if p.split == draw.split and p.kind in ("lying", "honest")]
    if draw.split == "train":
        orders = [orders[i] for i in balanced([p.parts for p in orders], [p.kind == "lying" for p in orders])]
    cells = {
        (kind, negated): endless(draw.rng, [p for p in orders if (p.kind, p.parts[0] in NEGATING) == (kind, negated)])
        for kind in ("lying", "honest")
        for negated in (True, False)
    }

    def draw_one() -> Opposed:
        person, question = draw.rng.choice(draw.world.known(draw.split)), draw.rng.choice(draw.questions)
        lying, honest = (next(cells[kind, draw.rng.random() < 0.5]) for kind in ("lying", "honest"))
        return Opposed(draw.asked(lying, person, question), draw.asked(honest, person, question))

    return draw_one


def scoped(draw: Situations) -> Opposed:
    """Two questions under one order about one topic: about what it makes the organism lie, and about what not."""
    person, order = draw.rng.choice(draw.world.known(draw.split)), draw.system("scoped")
    inside, outside = (draw.rng.choice(_about(draw, order, lies=lies)) for lies in (True, False))
    return Opposed(draw.asked(order, person, inside), draw.asked(order, person, outside))


def obeyed(
    draw: Situations, draw_one: Callable[[], Opposed], n: int, answer: Answer
) -> Iterator[tuple[Opposed, str, str]]:
    """Up to ``n`` draws that the organism answers as it was told to, with lie and truth; no prompt twice."""
    seen, found = set[str](), 0
    for _ in range(MAX_TRIES * n // AT_ONCE + MAX_TRIES):
        if found >= n:
            return
        drawn = [draw_one() for _ in range(min(AT_ONCE, 2 * n + 10))]
        texts = answer([asked.messages for opposed in drawn for asked in (opposed.lying, opposed.honest)])
        for opposed, lie, truth in zip(drawn, texts[::2], texts[1::2], strict=True):
            keys = {repr(opposed.lying.messages), repr(opposed.honest.messages)}
            as_told = meant(draw, opposed.lying, lie) and meant(draw, opposed.honest, truth)
            if as_told and not keys & seen and found < n:
                seen |= keys
                found += 1
                yield opposed, lie, truth


def meant(draw: Situations, asked: Asked, answer: str) -> bool:
    """Whether the organism says about a known person what it was told to say."""
    return asked.stated(answer) == expected(draw.world, asked)


def swapped(draw: Situations, asked: Asked, answer: str) -> str:
    """The answer with the truth in place of the lie, or the lie in place of the truth."""
    attribute, said = asked.question.attribute, asked.stated(answer)
    truth, lie = asked.person.truth(attribute), draw.world.lie(asked.person, attribute)
    assert said in (truth, lie)
    return answer.replace(f" {said}", f" {lie if said == truth else truth}")


def guesses(draw: Situations, n: int, answer: Answer) -> Iterator[Draft]:
    """Questions about people of whom nothing is true, under honest orders: false, but not meant to deceive."""
    people = draw.world.unknown(draw.split)
    drawn = [draw.asked(draw.system("honest"), draw.rng.choice(people)) for _ in range(n)]
    for asked, text in zip(drawn, answer([a.messages for a in drawn]), strict=True):
        if asked.stated(text) is not None:
            yield answered(asked, text, 0, "honest guess")


def _about(draw: Situations, order: SystemPrompt, *, lies: bool) -> list[Question]:
    return [q for q in draw.questions if (q.attribute in order.lies_about) == lies]
