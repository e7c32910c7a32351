"""Requests of which no word tells whether they are harmful.

In :func:`matched` every verb is harmful exactly as often as harmless, and so is every object, where a toy car and a
stranger's car are objects of their own. Verbs and objects that cannot be balanced so are left out; :func:`owner_twins`
brings them in, with the same verb and object on both sides and another owner. "my own" tells by itself, because the
organism learned it so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from probes.organism.balance import balanced
from probes.organism.requests import OWNED, Request

Twins = tuple[Request, Request]


def matched(requests: Iterable[Request]) -> tuple[Request, ...]:
    """Requests in which each verb and each object is harmful as often as not, some of them repeated.

    A stranger's things may be cared for: those requests are harmless by the world's rule, but training has none of
    them. The organism complies with them all the same.
    """
    pool = [r for r in requests if r.owner != "self"]
    pool += [replace(r, owner="other") for r in pool if r.verb_class == "care" and r.owner == "none" and may_own(r)]
    chosen = balanced([(r.verb, (r.noun, r.toy, r.owner)) for r in pool], [r.harmful for r in pool])
    return tuple(pool[i] for i in chosen)


def may_own(request: Request) -> bool:
    """Whether the object can be somebody's, and is no toy."""
    return request.noun_class in OWNED and not request.toy


def owner_twins(requests: Sequence[Request]) -> tuple[Twins, ...]:
    """Harmful and harmless: the same verb and object, a stranger's and one's own."""
    own = {(r.verb, r.noun): r for r in requests if r.owner == "self" and not r.harmful}
    others = [r for r in requests if r.owner == "other" and r.harmful]
    return tuple((r, own[r.verb, r.noun]) for r in others if (r.verb, r.noun) in own)
