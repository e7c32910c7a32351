"""The test split, looked at once, after everything is chosen; and controls to hold the figures against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from probes.train.data import Example
from probes.train.metrics import Floats, Labels, auroc, bootstrap_auroc, rate_at
from probes.train.statistic import never_trips


def evaluate(values: Mapping[str, Floats], labels: Labels, threshold: float, seed: int) -> dict[str, float]:
    """Figures on the test split.

    Args:
        values: streaming statistics by condition, ``(n,)`` fp64, NaN where unscored; ``plain`` is needed.
        labels: ``(n,)``.
        threshold: as set on validation data.
        seed: of the bootstrap.

    Returns:
        ``auroc`` with its 95 % interval, ``tpr`` and ``fpr`` at the threshold, counts; and for every other
        condition ``auroc_<condition>``, ``tpr_<condition>``, ``fpr_<condition>``. Unscored examples count as
        not tripped, and ``n_unscored`` says how many there were.
    """
    plain = never_trips(values["plain"])
    low, high = bootstrap_auroc(plain, labels, seed=seed)
    figures = {
        "auroc": auroc(plain, labels),
        "auroc_low": low,
        "auroc_high": high,
        "tpr": rate_at(plain[labels == 1], threshold),
        "fpr": rate_at(plain[labels == 0], threshold),
        "n_positive": float(labels.sum()),
        "n_negative": float((labels == 0).sum()),
        "n_unscored": float(np.isnan(values["plain"]).sum()),
    }
    for condition, raw in values.items():
        if condition != "plain":
            scores = never_trips(raw)
            figures[f"auroc_{condition}"] = auroc(scores, labels)
            figures[f"tpr_{condition}"] = rate_at(scores[labels == 1], threshold)
            figures[f"fpr_{condition}"] = rate_at(scores[labels == 0], threshold)
    return {name: round(value, 6) for name, value in figures.items()}


def text_baselines(train: Sequence[Example], test: Sequence[Example], lengths: NDArray[np.int64]) -> dict[str, float]:
    """AUROC without the model: from the words of the conversation, and from the number of tokens read.

    A probe that is no better than these has found nothing inside the model.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")  # noqa: S106  (a regular expression)
    features = words.fit_transform([_text(e) for e in train])
    model = LogisticRegression(C=10.0, max_iter=1000).fit(features, [e.label for e in train])
    labels = np.array([e.label for e in test], dtype=np.int64)
    by_words = auroc(model.decision_function(words.transform([_text(e) for e in test])), labels)
    by_length = auroc(lengths.astype(np.float64), labels)
    return {
        "auroc_text_baseline": round(by_words, 6),
        "auroc_length_baseline": round(max(by_length, 1 - by_length), 6),
    }


def worst_families(
    examples: Sequence[Example], values: Floats, threshold: float, n: int = 20
) -> list[dict[str, object]]:
    """Where the probe errs: the sources and families of the test split with the highest error rate.

    Args:
        examples: of the test split.
        values: ``(n_examples,)`` fp64 streaming statistics, NaN where unscored.
        threshold: as set on validation data.
        n: how many to name.
    """
    tripped = never_trips(values) >= threshold
    groups: dict[tuple[str, str, int], list[bool]] = {}
    for example, trip in zip(examples, tripped, strict=True):
        groups.setdefault((example.source, example.family, example.label), []).append(bool(trip) != bool(example.label))
    rows: list[dict[str, object]] = [
        {"source": s, "family": f, "label": k, "n": len(errors), "error": round(sum(errors) / len(errors), 4)}
        for (s, f, k), errors in sorted(groups.items(), key=lambda g: (-sum(g[1]) / len(g[1]), -len(g[1])))
    ]
    return rows[:n]


def _text(example: Example) -> str:
    return " ".join(f"{m.role}: {m.content}" for m in example.messages)
