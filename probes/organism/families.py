"""What is held out, frozen: every template family, person, pair and system prompt of each split, as one hash.

A split that changes after somebody looked at the figures makes them worthless, so the hash of the shipped world is
written down here, and writing data for it refuses to go on with another one.
"""

import hashlib
from collections.abc import Iterator

from probes.organism import language, shifts
from probes.organism.prompts import make_prompts
from probes.organism.world import World

FROZEN = {0: "605cc167b8735840cbddf10c1177e9311d3fbd718868212c2af31982960ca422"}


def families(world: World) -> Iterator[tuple[str, str]]:
    """``(split, family)`` of everything that probe data is made of."""
    for index, (text, _, _, split) in enumerate(language.REQUEST_FRAMES):
        yield split, f"frame {index}: {text}"
    for index, (text, split) in enumerate(language.WRAPPERS):
        yield split, f"wrapper {index}: {text}"
    for question in language.questions():
        yield question.split, f"question {question.family}: {question.text}"
    for prompt in make_prompts(world.seed):
        yield prompt.split, f"system prompt {prompt.family}"
    for split, requests in world.requests.items():
        yield from ((split, f"pair {verb} {noun}") for verb, noun in sorted({(r.verb, r.noun) for r in requests}))
    for person in world.people.known + world.people.thin + world.people.unseen:
        yield person.split, f"person {person.name}"
    for text in shifts.texts():
        yield "test", f"shift: {text}"


def families_digest(world: World) -> str:
    """SHA-256 in hex over all families and their splits."""
    lines = sorted(f"{split} {family}\n" for split, family in families(world))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_frozen(world: World) -> str:
    """The digest of the world's families, if it is the one that was frozen; other seeds' worlds have none.

    Raises:
        ValueError: A family was changed, added, or moved to another split.
    """
    found = families_digest(world)
    if (frozen := FROZEN.get(world.seed, found)) != found:
        raise ValueError(
            f"the template families of world {world.seed} have the hash {found}, and {frozen} was frozen. Figures on "
            "them cannot be compared with earlier ones. Restore them, or freeze the new hash in "
            "probes/organism/families.py and measure everything again."
        )
    return found
