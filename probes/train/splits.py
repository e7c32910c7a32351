"""Conversations to train, validation and test, in whole groups.

A group is a source and a template family (or a source alone), joined with every group that it shares a conversation
with. Groups are placed one by one, largest first, each where its labels are missed most; so every concept and label
comes as near to the wanted shares as whole groups allow. The result depends on the conversations, the shares and the
seed, and not on the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.cluster.hierarchy import DisjointSet  # type: ignore[import-untyped]

from probes.errors import DataError
from probes.train.examples import SPLITS, Example, Labelled, Split, messages_hash
from probes.train.families import group_of

By = Literal["family", "source"]
Stratum = tuple[str, int]  # concept and label


@dataclass(frozen=True)
class Plan:
    """How to split.

    Attributes:
        shares: of the examples that train, validation and test shall have; positive, adding up to 1.
        seed: of the order among groups of one size.
        by: whether a group is a source and a family, or a whole source.
    """

    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0
    by: By = "family"

    def __post_init__(self) -> None:
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise DataError(f"the shares came as {self.shares}; wanted three positive ones that add up to 1.")


def assign(
    examples: Sequence[Labelled],
    plan: Plan,
    *,
    frozen: Mapping[str, Split] | None = None,
    together: Iterable[tuple[str, str]] = (),
) -> dict[str, Split]:
    """Choose the split of every conversation.

    Args:
        examples: of all concepts.
        plan: shares, seed, and what a group is.
        frozen: splits by hash that stay as they are; their groups follow them.
        together: pairs of hashes that must be in one split, such as near-duplicates.

    Returns:
        The split by :func:`probes.train.examples.messages_hash`.

    Raises:
        DataError: a group whose conversations are frozen in two splits.
    """
    frozen = frozen or {}
    groups = _groups(examples, plan.by, together)
    placed: dict[Split, Counter[Stratum]] = {split: Counter() for split in SPLITS}
    splits: dict[str, Split] = {}
    free: list[tuple[list[str], Counter[Stratum]]] = []
    for hashes, strata in groups:
        fixed = {frozen[key] for key in hashes if key in frozen}
        if len(fixed) > 1:
            raise DataError(
                f"a group of {len(hashes)} conversations is frozen in {' and '.join(sorted(fixed))}; new conversations "
                "have joined what was apart. Split anew (--renew) and measure again."
            )
        if fixed:
            split = fixed.pop()
            placed[split] += strata
            splits |= dict.fromkeys(hashes, split)
        else:
            free.append((hashes, strata))
    total = sum((strata for _, strata in groups), Counter[Stratum]())
    shares = dict(zip(SPLITS, plan.shares, strict=True))
    for hashes, strata in sorted(free, key=lambda group: (-len(group[0]), _order(group[0], plan.seed))):
        split = max(SPLITS, key=lambda s: _missing(strata, placed[s], total, shares[s]))
        placed[split] += strata
        splits |= dict.fromkeys(hashes, split)
    return splits


def with_splits(examples: Iterable[Labelled], splits: Mapping[str, Split]) -> list[Example]:
    """The examples in the splits of their conversations; those that ``splits`` does not name are left out."""
    found = ((e, splits.get(messages_hash(e.messages))) for e in examples)
    return [Example(**dict(e), split=split) for e, split in found if split is not None]


def _groups(
    examples: Sequence[Labelled], by: By, together: Iterable[tuple[str, str]]
) -> list[tuple[list[str], Counter[Stratum]]]:
    """Hashes and label counts of every group; groups with a conversation in common are one."""
    joined: DisjointSet = DisjointSet()
    strata: defaultdict[str, Counter[Stratum]] = defaultdict(Counter)
    for example in examples:
        key = messages_hash(example.messages)
        strata[key][example.concept, example.label] += 1
        source, family = group_of(example)
        group: Hashable = (source, family) if by == "family" else (source,)
        joined.add(key)
        joined.add(group)
        joined.merge(key, group)
    for one, other in together:
        joined.merge(one, other)
    members = [sorted(key for key in subset if isinstance(key, str)) for subset in joined.subsets()]
    return [(hashes, sum((strata[key] for key in hashes), Counter[Stratum]())) for hashes in members]


def _missing(strata: Counter[Stratum], placed: Counter[Stratum], total: Counter[Stratum], share: float) -> float:
    """How much of its wanted share a split still misses, over the labels of one group, each by its part of the group.

    1 for an empty split, 0 for a full one, below 0 for one that has too much.
    """
    wanted = {stratum: share * total[stratum] for stratum in strata}
    return sum(n * (1 - placed[stratum] / wanted[stratum]) for stratum, n in strata.items()) / strata.total()


def _order(hashes: Sequence[str], seed: int) -> str:
    """A place in the queue that the seed shuffles and the order of the rows does not change."""
    return hashlib.sha256(f"{seed} {hashes[0]}".encode()).hexdigest()
