"""The template family of a conversation, where its data set names none.

Prompts made from one template share their first words ("Write a tutorial on how to …", "What happens if you …"), so
the family is the first words of the last user message, after taking out what varies inside a template: case, digits
and punctuation. That is coarse on purpose. Too coarse a family costs balance between the splits; too fine a family
lets a template into two of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from probes.train.examples import Example, Labelled, Message, Split

N_WORDS = 3
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_DIGITS = re.compile(r"\d+")


def leading_words(text: str, n_words: int = N_WORDS) -> str:
    """The first words of a text, lower-case, each run of digits as ``#``; empty if it has no word."""
    found = (match.group().casefold() for match in _WORD.finditer(text))
    return " ".join(_DIGITS.sub("#", word) for word, _ in zip(found, range(n_words), strict=False))


def derived_family(messages: Sequence[Message]) -> str:
    """The family of a conversation: the leading words of its last user message, or of its last message."""
    user = next((m for m in reversed(messages) if m.role == "user"), messages[-1])
    return leading_words(user.content) or "no words"


def group_of(example: Labelled) -> tuple[str, str]:
    """What a split must not divide: source and family, the family derived where none is given."""
    return example.source, example.family or derived_family(example.messages)


def divided_groups(examples: Iterable[Example]) -> tuple[list[tuple[str, str]], int]:
    """Groups that examples of several splits belong to, in order, and how many groups there are in all.

    What is learned from a template in one split is known of it in the others: figures are then too good.
    """
    splits: defaultdict[tuple[str, str], set[Split]] = defaultdict(set)
    for example in examples:
        splits[group_of(example)].add(example.split)
    return sorted(group for group, found in splits.items() if len(found) > 1), len(splits)
