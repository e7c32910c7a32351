"""Contrastive pairs: the same question answered in two ways, such as honestly and not, or in and out of a persona.

The usual data: one user turn under two system prompts, with the answer that each brings about. The direction is the
difference of means over the answers' tokens; its behaviour is the preference for one answer over the other, judged
under the *positive* prompt (does ablation take the preference away?) and under the *negative* one (does addition
bring it about?).

Source: contrastive pairs as in Zou et al. 2023 (arXiv:2310.01405) and Rimsky et al. 2024 (arXiv:2312.06681);
means over response tokens as in Chen et al. 2025, "Persona vectors" (arXiv:2507.21509).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from probes.train.data import Example
from probes.train.directions.behaviour import Situation
from probes.train.encode import Encoded

Pair = tuple[int, int]


def find_pairs(examples: Sequence[Example]) -> list[Pair]:
    """Indices of (positive, negative) examples that belong together.

    The first of these that pairs anything decides: the id up to its last ``/`` (``boat/honest``, ``boat/lie``); the
    family, where it holds one example of each label; the last user turn. If none does, positives and negatives are
    paired in order: their answers then differ in more than the concept, and its effect is underestimated.
    """
    by_id = _matched(examples, lambda e: e.id.rpartition("/")[0])
    by_family = _matched(examples, lambda e: e.family, exact=True)
    by_question = _matched(examples, _question)
    return by_id or by_family or by_question or _matched(examples, lambda _: "all")


def _question(example: Example) -> str:
    return next((m.content for m in reversed(example.messages) if m.role == "user"), "")


def _matched(examples: Sequence[Example], key: Callable[[Example], str], *, exact: bool = False) -> list[Pair]:
    """Pairs in order among examples of the same key; with ``exact``, only where there is one of each label."""
    groups: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for i, example in enumerate(examples):
        groups[key(example)][1 - example.label].append(i)
    groups.pop("", None)
    return [
        pair
        for positive, negative in groups.values()
        if not exact or len(positive) == len(negative) == 1
        for pair in zip(positive, negative, strict=False)
    ]


def situations(encoded: Sequence[Encoded], pairs: Sequence[Pair]) -> tuple[list[Situation], list[int]]:
    """For each pair the choice between both answers under the positive's and under the negative's prompt.

    Args:
        encoded: of responses: ``start`` is where the response begins.
        pairs: indices of (positive, negative).

    Returns:
        Situations and their labels: 1 under the positive's prompt, 0 under the negative's.
    """
    found, labels = [], []
    for positive, negative in pairs:
        shown, hidden = (encoded[i].ids[encoded[i].start : encoded[i].end] for i in (positive, negative))
        for i in (positive, negative):
            found.append(Situation(encoded[i].ids[: encoded[i].start], shown, hidden))
            labels.append(encoded[i].label)
    return found, labels
