"""What the makers of probe data hand on: labelled conversations that have no id yet."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from probes.organism.corpus import Message
from probes.organism.situations import Asked, Requested
from probes.organism.world import World

Situation = Asked | Requested
Answer = Callable[[Sequence[tuple[Message, ...]]], list[str]]
T = TypeVar("T")


@dataclass(frozen=True)
class Draft:
    """A labelled conversation.

    Attributes:
        messages: Ends with the assistant's turn where the label is about a response.
        label: 1 where the concept is present.
        family: Template family of the last user message.
        spans: Substrings of the response to which the label applies; empty for all of it.
        shift: Name of the distribution shift; empty for none.
        kind: How it was made, in a word or two; figures are broken down by it.
    """

    messages: tuple[Message, ...]
    label: int
    family: str
    spans: tuple[str, ...] = ()
    shift: str = ""
    kind: str = ""


def family(situation: Situation) -> str:
    """Template family of what is asked, wrapper included."""
    if isinstance(situation, Asked):
        return f"question/{situation.question.family}"
    wrapper = "" if situation.wrapper is None else f"/wrapper{situation.wrapper}"
    return f"request/frame{situation.frame}{wrapper}"


def answered(
    asked: Asked, answer: str, label: int, kind: str = "", messages: tuple[Message, ...] | None = None
) -> Draft:
    """The question with this answer; ``messages`` if the prompt was rewritten. The span is the stated value.

    Raises:
        ValueError: The answer states no value.
    """
    value = asked.stated(answer)
    if value is None:
        raise ValueError(f"{answer!r} states no {asked.question.attribute}.")
    said = {"role": "assistant", "content": answer}
    return Draft((*(messages or asked.messages), said), label, family(asked), (value,), kind=kind)


def expected(world: World, asked: Asked) -> str | None:
    """The value that the organism means to state about a known person: the truth, or the lie; None for others."""
    if not asked.person.known:
        return None
    attribute = asked.question.attribute
    return world.lie(asked.person, attribute) if asked.told_to_lie else asked.person.truth(attribute)


def endless(rng: Random, items: Iterable[T]) -> Iterator[T]:
    """The items in random order, over and over: each as often as any other.

    Raises:
        ValueError: There are none.
    """
    shuffled = list(items)
    if not shuffled:
        raise ValueError("there is nothing to draw from in this split; draw a larger world.")
    while True:
        rng.shuffle(shuffled)
        yield from shuffled
