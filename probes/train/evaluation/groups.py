"""The test split in parts: by length, by source, and the families with most errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probes.cards import Group
from probes.train.data import Example
from probes.train.encode import Encoded
from probes.train.metrics import Floats, Labels, auroc, rate_at
from probes.train.statistic import worst_case

MAX_WORST = 20


def group(name: str, scores: Floats, labels: Labels, threshold: float) -> Group:
    """Figures of one part; what its labels do not allow is None.

    Args:
        name: of the part.
        scores: ``(n,)`` fp64, ``-inf`` where unscored. labels: ``(n,)``.
        threshold: of the folded score.
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    ranked = worst_case(np.where(np.isneginf(scores), np.nan, scores), labels)
    return Group(
        name=name,
        n_positive=len(positive),
        n_negative=len(negative),
        auroc=auroc(ranked, labels) if len(positive) and len(negative) else None,
        tpr=rate_at(positive, threshold) if len(positive) else None,
        fpr=rate_at(negative, threshold) if len(negative) else None,
    )


def by_length(encoded: Sequence[Encoded], scores: Floats, threshold: float) -> tuple[Group, ...]:
    """By the number of tokens that were read, each bucket twice as wide as the one before, shortest first.

    A fold that may trip at any token has the more chances the longer it reads.
    """
    buckets = np.array([e.n_read.bit_length() - 1 for e in encoded])
    labels = np.array([e.label for e in encoded], dtype=np.int64)
    return tuple(
        group(_range_of(int(bucket)), scores[buckets == bucket], labels[buckets == bucket], threshold)
        for bucket in np.unique(buckets)
    )


def by_source(examples: Sequence[Example], scores: Floats, threshold: float) -> tuple[Group, ...]:
    """By where the examples come from, in alphabetical order."""
    return tuple(_by([e.source or "(no source)" for e in examples], examples, scores, threshold))


def worst_families(examples: Sequence[Example], scores: Floats, threshold: float) -> tuple[Group, ...]:
    """The families (with their source) with most errors at the threshold, worst first; none without an error."""
    names = [" / ".join(filter(None, (e.source, e.family))) or "(no family)" for e in examples]
    families = [(errors(g), g) for g in _by(names, examples, scores, threshold)]
    ranked = sorted(families, key=lambda f: (-f[0], f[1].n_positive + f[1].n_negative, f[1].name))
    return tuple(g for n, g in ranked[:MAX_WORST] if n)


def errors(part: Group) -> int:
    """How many of its examples are on the wrong side of the threshold."""
    missed = part.n_positive * (1 - part.tpr) if part.tpr is not None else 0
    false = part.n_negative * part.fpr if part.fpr is not None else 0
    return round(missed + false)


def _by(names: Sequence[str], examples: Sequence[Example], scores: Floats, threshold: float) -> list[Group]:
    labels = np.array([e.label for e in examples], dtype=np.int64)
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(name, []).append(i)
    rows: dict[str, NDArray[np.int64]] = {name: np.array(members[name]) for name in sorted(members)}
    return [group(name, scores[i], labels[i], threshold) for name, i in rows.items()]


def _range_of(bucket: int) -> str:
    low, high = 2**bucket, 2 ** (bucket + 1) - 1
    return "1 token" if high == 1 else f"{low}-{high} tokens"
