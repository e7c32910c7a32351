"""A probe to deploy and a probe to audit it with, fitted on template families that they do not share.

The audit probe is never served, steered with or trained against. A fine-tune that learns to evade the deployed probe
then has no reason to evade the audit probe too, unless both read the same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold  # type: ignore[import-untyped]

from probes.errors import DataError
from probes.train.calibrate import set_threshold
from probes.train.collect import Activations
from probes.train.estimators.recipes import RECIPES, Dense
from probes.train.fit import Configuration, Design, Labels, fit_columns
from probes.train.judging import Figures, figures_of
from probes.train.model import LoadedModel
from probes.train.readings import READINGS
from probes.train.resample import FEWEST_FAMILIES, group_examples
from probes.train.studies.material import Material
from probes.train.studies.served import ServedProbe


@dataclass(frozen=True)
class Choice:
    """How a half is fitted: a dense estimator (logistic, mass_mean, lda, ridge), and the layers to choose among."""

    estimator: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Halves:
    """Two probes for one concept.

    Attributes:
        deployed, audit: each on a half of the training families.
        families: how many families each half has.
    """

    deployed: ServedProbe
    audit: ServedProbe
    families: tuple[int, int]


def fit_halves(
    model: LoadedModel, material: Material, deployed: Choice, audit: Choice, *, fpr: float, seed: int = 0
) -> Halves:
    """Fit both. Layer, reading and threshold of each are chosen on the validation split, which they share.

    Args:
        model: whose activations are read.
        material: examples with at least ten families of each label, or whose families hold both labels.
        deployed, audit: how each is fitted.
        fpr: allowed false-positive rate.
        seed: of the division.

    Raises:
        DataError: too few families to divide, an estimator that is not dense, or too few validation negatives.
    """
    part = material.parts["train"]
    mine, others = divide(part.families, part.labels, seed)
    names = np.asarray(part.families, dtype=str)
    return Halves(
        deployed=_fit(model, material, deployed, mine, f"{material.concept}, deployed", fpr, seed),
        audit=_fit(model, material, audit, others, f"{material.concept}, audit", fpr, seed),
        families=(len(np.unique(names[mine])), len(np.unique(names[others]))),
    )


def divide(families: Sequence[str], labels: Labels, seed: int) -> tuple[Labels, Labels]:
    """Indices of two halves that share no family, each with both labels.

    Raises:
        DataError: fewer than five families of a label, or no such division.
    """
    groups, by_family = group_examples(families, labels)
    if not by_family:
        raise DataError(
            f"fewer than {FEWEST_FAMILIES} template families of a label in the training split; an audit probe wants "
            "families that the deployed one never saw. Name the families of your examples, or add some."
        )
    splitter = StratifiedGroupKFold(n_splits=2, shuffle=True, random_state=seed)
    one, other = next(splitter.split(np.zeros(len(labels)), labels, groups))
    if not all(set(labels[half]) == {0, 1} for half in (one, other)):
        raise DataError("the families cannot be divided so that both halves have both labels; add families.")
    return one, other


def _fit(
    model: LoadedModel, material: Material, choice: Choice, half: Labels, name: str, fpr: float, seed: int
) -> ServedProbe:
    recipe = RECIPES.get(choice.estimator)
    if not isinstance(recipe, Dense):
        dense = ", ".join(n for n, r in RECIPES.items() if isinstance(r, Dense))
        raise DataError(f"estimator {choice.estimator!r} was asked for; wanted one of {dense}.")
    train = material.activations(model, "train", choice.layers)
    validation = material.activations(model, "validation", choice.layers)
    labels = material.parts["train"].labels
    weights = np.zeros(len(labels))
    weights[half] = 1.0
    best: tuple[Figures, ServedProbe] | None = None
    for layer in choice.layers:
        design = Design.of({"plain": train}, layer, None)
        for reading in READINGS[validation.examples[0].scope.phase]:
            configuration = Configuration(layer, choice.estimator, reading, recipe.default)
            nobody = np.empty(0, dtype=np.int64)  # dense estimators stop by themselves
            columns = fit_columns(design, configuration, labels, weights, watched=nobody, seed=seed)
            probe = ServedProbe(name, layer, columns, reading, np.inf)
            found = _judged(probe, validation, material.parts["validation"].labels, fpr)
            if best is None or found[0].quality > best[0].quality:
                best = found
    assert best is not None
    return best[1]


def _judged(probe: ServedProbe, validation: Activations, labels: Labels, fpr: float) -> tuple[Figures, ServedProbe]:
    """Validation figures, and the probe with its threshold."""
    statistic = probe.statistic(validation)
    negatives = statistic[(labels == 0) & ~np.isnan(statistic)]
    threshold = set_threshold(negatives, fpr, "the validation split")
    served = ServedProbe(probe.name, probe.layer, probe.columns, probe.reading, threshold.value)
    return figures_of({"plain": statistic}, labels, fpr), served
