"""What the text alone tells: a probe that is no better has found nothing inside the model.

Fitted on the training split, regularisation chosen on the validation split, judged on the test split, as the probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from probes.cards import Comparison
from probes.train.data import Example
from probes.train.evaluation.inputs import Scored
from probes.train.evaluation.intervals import auroc_estimate, auroc_gap
from probes.train.metrics import Floats, Labels, auroc
from probes.train.progress import Reporter
from probes.train.statistic import worst_case

INVERSE_REGULARISATION = (1.0, 100.0)


def text_baselines(
    train: Sequence[Example],
    validation: Sequence[Example],
    test: Scored,
    seed: int,
    reporter: Reporter,
) -> tuple[Comparison, ...]:
    """Each baseline's AUROC on the test split and how far the probe is above it, the best baseline first.

    Args:
        train: what the probe was fitted on. validation: what it was chosen on. test: what it is judged on.
        seed: of the bootstrap.
        reporter: told about progress.
    """
    labels, families = test.labels, test.families
    scores = worst_case(test.statistic, labels)
    found = []
    with reporter.track("text baselines", 3, "baselines") as advance:
        for name, decisions in baseline_scores(train, validation, test.examples):
            estimate = auroc_estimate(decisions, labels, seed, families)
            gap = auroc_gap(scores, decisions, labels, seed, families)
            found.append(Comparison(name=name, kind="text", auroc=estimate, gap=gap))
            advance(1)
    return tuple(sorted(found, key=lambda c: -c.auroc.value))


def baseline_scores(
    train: Sequence[Example], validation: Sequence[Example], test: Sequence[Example]
) -> Iterator[tuple[str, Floats]]:
    """Each baseline's name and its scores of the test examples, ``(n_test,)`` fp64."""
    splits = [train, validation, test]
    labels = [_labels(split) for split in splits]
    texts = [[_text(e) for e in split] for split in splits]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")  # noqa: S106  (a regular expression)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    for name, vectoriser in (("words, TF-IDF of 1-2", words), ("characters, TF-IDF of 2-4", characters)):
        features = [vectoriser.fit_transform(texts[0]), *(vectoriser.transform(t) for t in texts[1:])]
        yield name, _best(features, labels)
    lengths = [np.array([_lengths(e) for e in split]) for split in splits]
    scaler = StandardScaler().fit(lengths[0])
    yield "length", _best([scaler.transform(values) for values in lengths], labels)


def _best(features: Sequence[csr_matrix | Floats], labels: Sequence[Labels]) -> Floats:
    """Test scores of the logistic regression that ranks the validation split best."""
    train, validation, test = features
    models = [LogisticRegression(C=c, max_iter=5000).fit(train, labels[0]) for c in INVERSE_REGULARISATION]
    best = max(models, key=lambda model: auroc(model.decision_function(validation), labels[1]))
    return np.asarray(best.decision_function(test), dtype=np.float64)


def _labels(examples: Sequence[Example]) -> Labels:
    return np.array([e.label for e in examples], dtype=np.int64)


def _text(example: Example) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in example.messages)


def _lengths(example: Example) -> list[float]:
    """Logarithms of the characters and words of the whole conversation, and of its last message."""
    contents = [m.content for m in example.messages]
    counts = [sum(map(len, contents)), sum(len(c.split()) for c in contents), len(contents[-1])]
    return [float(np.log1p(n)) for n in (*counts, len(contents[-1].split()))]
