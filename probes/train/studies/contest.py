"""Features of an autoencoder against plain probes: the figures, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.cards import Estimate, Failure, Study
from probes.train.studies.dictionary import Quality, Recipe


@dataclass(frozen=True)
class Feature:
    """One feature of the dictionary: its AUROC on validation and test data, the lower of the two sides turned up.

    Attributes:
        sign: 1 where it is active for the concept, -1 where it is active without.
        active: share of the validation examples in which it is active at all.
    """

    index: int
    sign: int
    validation: float
    test: float
    active: float


@dataclass(frozen=True)
class Contest:
    """What reads one concept how well on the test split.

    Attributes:
        concept: its name. n_positive, n_negative: of the test split.
        served: AUROC of the probe that is served. plain: of a logistic probe of pooled activations of this layer.
        single: of the best single feature. several: of the logistic probe of ``n_features`` features.
        single_gap, several_gap: their AUROC minus that of the better plain one on validation data, paired.
        rival: which one that was.
        top: features with the highest AUROC on validation data.
    """

    concept: str
    n_positive: int
    n_negative: int
    served: Estimate
    plain: Estimate
    single: Estimate
    several: Estimate
    n_features: int
    single_gap: Estimate
    several_gap: Estimate
    rival: str
    top: tuple[Feature, ...]


def dictionary_study(layer: int, recipe: Recipe, quality: Mapping[str, Quality]) -> Study:
    """Reconstruction by name of the data."""
    return Study(
        title=f"Sparse autoencoder of layer {layer}",
        text=f"TopK, {recipe.n_features} features of which at most {recipe.k} are active, {recipe.epochs} passes, seed "
        f"{recipe.seed}, trained on the training splits only. FVU: fraction of variance unexplained, 0 is perfect and "
        "1 no better than the mean; L0: mean number of active features; dead: share of features never active there.",
        columns=("data", "tokens", "FVU", "L0", "dead"),
        rows=tuple((name, float(q.n_tokens), q.fvu, q.l0, q.dead) for name, q in quality.items()),
    )


def _contest_title(layer: int) -> str:
    return f"Features of layer {layer} against plain probes"


def contest_study(layer: int, contests: Sequence[Contest]) -> Study:
    """AUROCs side by side, with paired gaps."""
    rows: list[tuple[str | float | None, ...]] = []
    for c in contests:
        for name, found, gap in (
            ("served probe", c.served, None),
            ("plain probe", c.plain, None),
            ("best single feature", c.single, c.single_gap),
            (f"{c.n_features} features", c.several, c.several_gap),
        ):
            ends = (None, None, None) if gap is None else (gap.value, gap.low, gap.high)
            rows.append((c.concept, name, found.value, found.low, found.high, *ends))
    return Study(
        title=_contest_title(layer),
        text="AUROC on the test split with its 95 % interval. Gap: minus the AUROC of the served or the plain probe, "
        "whichever is better on validation data, paired bootstrap; features beat it only where the low end is above 0. "
        "The plain probe is logistic, of activations of this layer pooled as the features are; the served one may "
        "read another layer. Features, their number and penalties were chosen on training and validation data.",
        columns=("concept", "reads", "AUROC", "low", "high", "gap", "gap low", "gap high"),
        rows=tuple(rows),
    )


def feature_study(layer: int, contest: Contest) -> Study:
    """The top features of one concept."""
    return Study(
        title=f"Top features of layer {layer} for {contest.concept}",
        text="Features with the highest AUROC on validation data, and the same ones on the test split. They are the "
        "best of the whole dictionary, so that the validation figure flatters. Sign: active with the concept (+) or "
        "without it (-). Active: share of validation examples in which the feature is active at all. A number is no "
        "meaning: nobody has read what makes a feature active.",
        columns=("feature", "sign", "AUROC validation", "AUROC test", "active"),
        rows=tuple((str(f.index), "+" if f.sign > 0 else "-", f.validation, f.test, f.active) for f in contest.top),
    )


def failures(layer: int, contest: Contest) -> list[Failure]:
    """Where features do not beat the plain probe: a finding, not a fault."""
    tried = (
        ("the best single feature", contest.single_gap),
        (f"a probe of {contest.n_features} features", contest.several_gap),
    )
    return [
        Failure(
            what=f"{_contest_title(layer)}: {name} of the sparse autoencoder tells {contest.concept} better than the "
            f"{contest.rival}",
            found=f"AUROC {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
        )
        for name, gap in tried
        if gap.low <= 0
    ]
