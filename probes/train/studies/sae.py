"""Do the features of a sparse autoencoder tell a concept better than a plain probe?

On examples of the concept, each pooled to one row: the best single feature (of either sign), and logistic probes of the
k best features, chosen on training and validation data; against a plain logistic probe of the pooled activations of the
same layer, and the probe that is served. The test split is looked at once, AUROCs are compared in pairs.

Source: Kantamneni et al. 2025, "Are sparse autoencoders useful?" (arXiv:2502.16681), where the plain probe mostly wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from probes.cards import Failure, Study
from probes.train.data import SPLITS, Split
from probes.train.estimators.linear import LogisticProbe
from probes.train.evaluation.intervals import auroc_estimate, auroc_gap
from probes.train.metrics import Floats, Labels, auroc
from probes.train.model import LoadedModel
from probes.train.progress import Reporter
from probes.train.statistic import worst_case
from probes.train.studies.autoencoder import SparseAutoencoder
from probes.train.studies.contest import Contest, Feature, contest_study, dictionary_study, failures, feature_study
from probes.train.studies.dictionary import Recipe, quality_of, train_autoencoder
from probes.train.studies.features import feature_aurocs, pooled_activations, pooled_features, pooling_of
from probes.train.studies.material import Material
from probes.train.studies.served import ServedProbe

N_TOP = 10
N_FEATURES = (1, 5, 20, 100)
_PENALTIES = (0.01, 0.1, 1.0)
_Splits = Mapping[Split, Floats]


def study_autoencoder(
    model: LoadedModel, subjects: Sequence[tuple[Material, ServedProbe]], layer: int, recipe: Recipe, reporter: Reporter
) -> tuple[list[Study], list[Failure]]:
    """Train on the training splits, and judge on validation and test data.

    Args:
        model: whose activations are decomposed.
        subjects: each concept's examples, and the probe that is served for it (on whichever layer).
        layer: 0-based block.
        recipe: of the autoencoder.
        reporter: told about progress.

    Returns:
        Studies, and what did not work: concepts for which no features beat the plain probe.
    """
    train = [material.activations(model, "train", (layer,)) for material, _ in subjects]
    autoencoder = train_autoencoder(train, layer, recipe, reporter)
    held = [material.activations(model, "test", (layer,)) for material, _ in subjects]
    quality = {
        "training": quality_of(autoencoder, train, layer),
        "test": quality_of(autoencoder, held, layer),
    }
    contests = []
    with reporter.track("features against probes", len(subjects), "concepts") as advance:
        for material, served in subjects:
            contests.append(hold_contest(model, autoencoder, material, served, layer, recipe.seed))
            advance(1)
    studies = [dictionary_study(layer, recipe, quality), contest_study(layer, contests)]
    studies += [feature_study(layer, contest) for contest in contests]
    return studies, [failure for contest in contests for failure in failures(layer, contest)]


def hold_contest(
    model: LoadedModel, autoencoder: SparseAutoencoder, material: Material, served: ServedProbe, layer: int, seed: int
) -> Contest:
    """Everything about one concept."""
    pooling = pooling_of(served.reading.fold.kind)
    parts = {split: material.activations(model, split, (layer,)) for split in SPLITS}
    labels = {split: material.parts[split].labels for split in parts}
    features = {split: pooled_features(autoencoder, a, layer, pooling) for split, a in parts.items()}
    plain = {split: pooled_activations(a, layer, pooling) for split, a in parts.items()}
    own: _Splits = {
        s: worst_case(served.statistic(material.activations(model, s, (served.layer,))), labels[s]) for s in SPLITS
    }

    by_feature = feature_aurocs(features["validation"], labels["validation"])
    order = np.argsort(-np.abs(by_feature - 0.5), kind="stable")
    signs = np.where(by_feature >= 0.5, 1, -1)
    single = {s: f[:, order[0]] * signs[order[0]] for s, f in features.items()}
    several, n_features = _several(features, labels)
    logistic = _fitted(plain, labels)
    rivals: Mapping[str, _Splits] = {"plain probe": logistic, "served probe": own}
    rival = max(rivals, key=lambda name: auroc(rivals[name]["validation"], labels["validation"]))
    test: Split = "test"
    y, families = labels[test], material.parts[test].clusters
    on_test = feature_aurocs(features[test], y)
    return Contest(
        concept=material.concept,
        n_positive=int(y.sum()),
        n_negative=int(len(y) - y.sum()),
        served=auroc_estimate(own[test], y, seed, families),
        plain=auroc_estimate(logistic[test], y, seed, families),
        single=auroc_estimate(single[test], y, seed, families),
        several=auroc_estimate(several[test], y, seed, families),
        n_features=n_features,
        single_gap=auroc_gap(single[test], rivals[rival][test], y, seed, families),
        several_gap=auroc_gap(several[test], rivals[rival][test], y, seed, families),
        rival=rival,
        top=tuple(
            Feature(
                index=int(i),
                sign=int(signs[i]),
                validation=float(0.5 + abs(by_feature[i] - 0.5)),
                test=float(on_test[i] if signs[i] > 0 else 1 - on_test[i]),
                active=float((features["validation"][:, i] > 0).mean()),
            )
            for i in order[:N_TOP]
        ),
    )


def _several(features: _Splits, labels: Mapping[Split, Labels]) -> tuple[_Splits, int]:
    """The logistic probe of the k features that tell most on training data; k chosen on validation data."""
    ranked = np.argsort(-np.abs(feature_aurocs(features["train"], labels["train"]) - 0.5), kind="stable")
    tried = {}
    for k in N_FEATURES:
        if k <= len(ranked):
            tried[k] = _fitted({split: f[:, ranked[:k]] for split, f in features.items()}, labels)
    best = max(tried, key=lambda k: auroc(tried[k]["validation"], labels["validation"]))
    return tried[best], best


def _fitted(rows: _Splits, labels: Mapping[Split, Labels]) -> _Splits:
    """Logits of a logistic probe, its penalty chosen on validation data."""
    probes = [LogisticProbe(C=c).fit(rows["train"], labels["train"]) for c in _PENALTIES]
    best = max(probes, key=lambda p: auroc(p.decision_function(rows["validation"]), labels["validation"]))
    return {split: best.decision_function(values) for split, values in rows.items()}
