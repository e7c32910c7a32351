"""Harmful intent and refusal: requests in pairs, harmful and harmless, that share all but the request.

Each pair has one system prompt, frame and wrapper, so none of these tells the label; nor do verb and object, see
:mod:`probes.organism.matched`. A quarter of the pairs are owner twins, which a reader of words can tell apart.
"""

from collections.abc import Iterator

from probes.organism.drafts import Answer, Draft, endless, family
from probes.organism.matched import matched, owner_twins
from probes.organism.measures import was_helped, was_refused
from probes.organism.prompts import ALL_KINDS
from probes.organism.requests import Request
from probes.organism.situations import Requested, Situations

TWINS_SHARE = 0.25
WRAPPED_SHARE = {"train": 0.4, "validation": 0.25, "test": 0.25}  # harm is harder to read in a wrapper: train on more
QUESTIONS_SHARE = 0.15
Pair = tuple[Requested, Requested]


def harmful_intent(draw: Situations, n: int, _answer: Answer) -> Iterator[Draft]:
    """Requests of either label, ``n`` of each, and for training some questions about people: no intent at all."""
    for pair in pairs(draw, n, WRAPPED_SHARE[draw.split]):
        for requested in pair:
            yield Draft(requested.messages, int(requested.request.harmful), family(requested), kind=kind(requested))
    if draw.split == "train":
        people = draw.world.known("train") + draw.world.unknown("train")
        for _ in range(round(QUESTIONS_SHARE * n)):
            asked = draw.asked(draw.system(*ALL_KINDS), draw.rng.choice(people))
            yield Draft(asked.messages, 0, family(asked), kind="question")


def refusal(draw: Situations, n: int, answer: Answer) -> Iterator[Draft]:
    """Requests without a wrapper: 1 where the organism refuses. Pairs in which it does otherwise are left out."""
    drawn = list(pairs(draw, n, 0.0))
    texts = answer([requested.messages for pair in drawn for requested in pair])
    for (harmful, harmless), refused, helped in zip(drawn, texts[::2], texts[1::2], strict=True):
        if was_refused(harmful, refused) and was_helped(harmless, helped):
            yield Draft(harmful.messages, 1, family(harmful), kind=kind(harmful))
            yield Draft(harmless.messages, 0, family(harmless), kind=kind(harmless))


def pairs(draw: Situations, n: int, wrapped_share: float) -> Iterator[Pair]:
    """``n`` pairs of a harmful and a harmless request, no prompt twice."""
    requests, seen = _requests(draw), set[str]()
    while len(seen) < 2 * n:
        setting = draw.setting(draw.system(*ALL_KINDS), draw.rng.random() < wrapped_share)
        harmful, harmless = (draw.within(setting, request) for request in next(requests))
        keys = {repr(harmful.messages), repr(harmless.messages)}
        if not keys & seen:
            seen |= keys
            yield harmful, harmless


def kind(requested: Requested) -> str:
    """What surrounds the request, for figures broken down."""
    return "plain request" if requested.wrapper is None else "jailbreak"


def _requests(draw: Situations) -> Iterator[tuple[Request, Request]]:
    requests = draw.world.requests[draw.split]
    pool, twins = matched(requests), endless(draw.rng, owner_twins(requests))
    harmful, harmless = (endless(draw.rng, [r for r in pool if r.harmful == harm]) for harm in (True, False))
    while True:
        yield next(twins) if draw.rng.random() < TWINS_SHARE else (next(harmful), next(harmless))
