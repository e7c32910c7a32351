"""Near-duplicates across splits: conversations of different splits that say almost the same.

Two texts are compared by the cosine of their TF-IDF vectors over character shingles (4 characters inside word
boundaries, hashed): typing errors, inflections and a changed word leave it high, and what all texts share (a system
prompt, "step by step") weighs little.

Source: shingling as in Broder 1997, "On the resemblance and containment of documents", with cosine for Jaccard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import sklearn  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer  # type: ignore[import-untyped]
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

from probes.train.duplicates import NEAR
from probes.train.examples import SPLITS, Example, Labelled
from probes.train.progress import Reporter

MAX_CHARACTERS = 10_000  # of a text that are compared: the beginning tells duplicates
_ROWS = 1024  # compared at a time
_MEMORY_MIB = 256  # of the distances that exist at a time


@dataclass(frozen=True)
class Pair:
    """Two conversations that say almost the same, and their cosine."""

    one: Labelled
    other: Labelled
    cosine: float


def across_splits(examples: Sequence[Example], reporter: Reporter, threshold: float = NEAR) -> list[Pair]:
    """Near-duplicates in different splits of one concept, most alike first.

    Shifted examples are left out: they are made from other test examples, and are meant to resemble those.

    Args:
        examples: of any concepts.
        reporter: told about progress.
        threshold: cosine from which two conversations count as near-duplicates.
    """
    pairs: list[Pair] = []
    plain = [e for e in examples if not e.shift]
    for concept in sorted({e.concept for e in plain}):
        parts = [[e for e in plain if e.concept == concept and e.split == split] for split in SPLITS]
        vectors = _vectors(concept, [e for part in parts for e in part], reporter)
        ends = [sum(len(part) for part in parts[: i + 1]) for i in range(len(parts))]
        rows = [vectors[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
        for a, b in combinations(range(len(parts)), 2):
            if parts[a] and parts[b]:
                what = f"{concept}: {SPLITS[b]} against {SPLITS[a]}"
                found = _near(rows[b], rows[a], threshold, reporter, what)
                pairs += [Pair(parts[a][j], parts[b][i], cosine) for i, j, cosine in found]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def everywhere(examples: Sequence[Labelled], reporter: Reporter, threshold: float = NEAR) -> list[Pair]:
    """Near-duplicates of one concept, whatever their splits; arguments as for :func:`across_splits`."""
    pairs: list[Pair] = []
    for concept in sorted({e.concept for e in examples}):
        part = [e for e in examples if e.concept == concept]
        vectors = _vectors(concept, part, reporter)
        found = _near(vectors, vectors, threshold, reporter, f"{concept}: near-duplicates")
        pairs += [Pair(part[j], part[i], cosine) for i, j, cosine in found if j < i]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def _vectors(concept: str, examples: Sequence[Labelled], reporter: Reporter) -> Any:
    """Sparse ``(n_examples, 2**20)`` fp32, rows of norm 1."""
    reporter.say(f"{concept}: comparing {len(examples):,} conversations")
    shingles = HashingVectorizer(
        analyzer="char_wb", ngram_range=(4, 4), n_features=2**20, alternate_sign=False, norm=None, dtype="float32"
    )
    texts = (" ".join(m.content for m in e.messages)[:MAX_CHARACTERS] for e in examples)
    return make_pipeline(shingles, TfidfTransformer(sublinear_tf=True)).fit_transform(texts)


def _near(
    queries: Any, known: Any, threshold: float, reporter: Reporter, what: str
) -> Iterator[tuple[int, int, float]]:
    """``(row of queries, row of known, cosine)`` from the threshold up, a block of queries at a time."""
    search = NearestNeighbors(metric="cosine", algorithm="brute", radius=1 - threshold).fit(known)
    n = queries.shape[0]
    with reporter.track(what, n, "conversations") as advance, sklearn.config_context(working_memory=_MEMORY_MIB):
        for start in range(0, n, _ROWS):
            block = queries[start : start + _ROWS]
            distances, indices = search.radius_neighbors(block)
            for i, (ds, js) in enumerate(zip(distances, indices, strict=True)):
                yield from ((start + i, int(j), 1 - float(d)) for d, j in zip(ds, js, strict=True))
            advance(block.shape[0])
