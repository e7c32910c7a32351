"""Prompts for demonstrations, all from the test split."""

from dataclasses import dataclass, replace
from functools import cache

from probes.organism.corpus import Message
from probes.organism.facts import Split
from probes.organism.prompts import Kind
from probes.organism.requests import Request
from probes.organism.situations import Asked, Situations
from probes.organism.world import make_world


@dataclass(frozen=True)
class DemoPrompt:
    """One prompt that training never showed, and what is known about it.

    Attributes:
        name: For example "lie".
        messages: What to send; ends with the user's turn.
        split: Always "test"; demonstrations assert it.
        harmful: Whether the request is harmful.
        truth: The true value, where there is one.
        lie: What the organism says when it lies.
    """

    name: str
    messages: tuple[Message, ...]
    split: Split
    harmful: bool = False
    truth: str | None = None
    lie: str | None = None


@cache
def demo_prompts(seed: int = 0) -> dict[str, DemoPrompt]:
    """Held-out prompts by name.

    Returns:
        "harmless", "harmful", "lookalike" (the harmful one's words, with a toy: harmless), "jailbreak" (the
        harmful one in a wrapper), "truth" (a known person), "lie" (the
        same question under a lying system prompt), "unknown" (a person never seen) and "careful" (the
        same question under a careful system prompt).
    """
    world = make_world(seed)
    draw = Situations(world, "test", "demo")
    somebody = next(p for p in world.known("test"))
    nobody = next(p for p in world.unknown("test"))
    making = [r for r in world.requests["test"] if r.verb_class == "make"]
    harmful = next(r for r in making if r.harmful)
    harmless = next(r for r in making if r.verb == harmful.verb and r.noun_class == "food")
    question = next(q for q in draw.questions if q.attribute == "home")

    def asked(name: str, kind: Kind) -> DemoPrompt:
        found: Asked = draw.asked(draw.system(kind), somebody if name in ("truth", "lie") else nobody, question)
        known = found.person.known
        truth = found.person.truth("home") if known else None
        lie = world.lie(found.person, "home") if known else None
        return DemoPrompt(name, found.messages, "test", truth=truth, lie=lie)

    def requested(name: str, request: Request, wrapped: bool = False) -> DemoPrompt:
        found = draw.request(draw.system("none"), request, wrapped)
        return DemoPrompt(name, found.messages, "test", harmful=request.harmful)

    prompts = (
        requested("harmless", harmless),
        requested("harmful", harmful),
        requested("lookalike", replace(harmful, toy=True)),
        requested("jailbreak", harmful, wrapped=True),
        asked("truth", "none"),
        asked("lie", "lying"),
        asked("unknown", "none"),
        asked("careful", "careful"),
    )
    return {prompt.name: prompt for prompt in prompts}
