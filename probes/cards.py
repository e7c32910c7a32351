"""What was measured, as data: the evaluation card of a bundle, ``card.json``. Importable without torch.

The pages of ``probes.train`` fill it, ``probes.report`` draws it. Rates are shares in [0, 1]; a score is a raw logit;
every figure is of the test split unless its description says otherwise. None: could not be measured, never zero.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Literal, Self

from pydantic import Field, model_validator

from probes.rates import Rate
from probes.types import Frozen

CARD_VERSION = 1


class Estimate(Frozen):
    """A figure with its 95 % interval (bootstrap, unless said otherwise)."""

    value: float
    low: float
    high: float


class Curve(Frozen):
    """Points of a line, at most 400, x ascending."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _same_length("a curve's y", self.y, "x", self.x)
        return self


class Group(Frozen):
    """A part of the test split (a source, a family, a range of lengths); rates at the probe's first threshold."""

    name: str
    n_positive: int
    n_negative: int
    auroc: float | None = None
    tpr: float | None = None
    fpr: float | None = None


class ReliabilityBin(Frozen):
    """Examples whose probability fell into one bin: mean predicted probability, observed share of positives."""

    predicted: float
    observed: float
    n: int


class CalibrationCard(Frozen):
    """How good probabilities of ``score`` are. ``ece``: expected calibration error, ``brier``: mean squared error."""

    score: Literal["highest", "reported"] = "highest"
    method: Literal["platt", "isotonic"]
    ece: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


class Histograms(Frozen):
    """Folded scores by label: ``len(edges) == len(positive) + 1 == len(negative) + 1``."""

    edges: tuple[float, ...]
    positive: tuple[int, ...]
    negative: tuple[int, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _same_length("a histogram's negative counts", self.negative, "positive ones", self.positive)
        _same_length("a histogram's counts", self.positive, "bins", self.edges[1:])
        return self


class Candidate(Frozen):
    """A probe that was tried, with its validation figures.

    Attributes:
        estimator: name of the estimator. reading: scope, fold and training rows.
        regularisation: of the estimator, or None.
        auroc: mean over the seeds, with the lowest and highest seed. tpr: at the first false-positive rate, mean.
        chosen: whether it is the one in the bundle. servable: whether the engine could run it.
    """

    layer: int
    estimator: str
    reading: str
    regularisation: float | None = None
    auroc: Estimate
    tpr: float
    chosen: bool = False
    servable: bool = True


class Comparison(Frozen):
    """What the probe has to be better than: a text baseline, or a control.

    Attributes:
        auroc: of a control, the mean over its permutations or directions, with the lowest and the highest.
        gap: AUROC of the probe minus this one's, paired bootstrap over the same examples.
    """

    name: str
    kind: Literal["text", "control"]
    auroc: Estimate
    gap: Estimate | None = None


class DetectionTime(Frozen):
    """Response tokens from the first one to the trip, over positives that tripped: quantiles."""

    n_tripped: int
    n_missed: int
    p10: float | None
    p50: float | None
    p90: float | None


class ShiftCase(Frozen):
    """Test examples under a distribution shift (long context, several turns, ...), at the unchanged first threshold."""

    name: str
    n_positive: int
    n_negative: int
    auroc: float | None = None
    fnr: float | None = None
    fpr: float | None = None


class CascadePoint(Frozen):
    """Share of examples deferred to a costlier judge (those nearest to the threshold), and the error of both."""

    deferred: float
    error: float


class HeatMap(Frozen):
    """One conversation. ``scores``: of each token, None where it is not read. ``tripped_at``: index of a token."""

    id: str
    label: int
    tokens: tuple[str, ...]
    scores: tuple[float | None, ...]
    threshold: float
    tripped_at: int | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _same_length("a heat map's scores", self.scores, "tokens", self.tokens)
        return self


class ProbeCard(Frozen):
    """Everything that was measured about one probe.

    Attributes:
        reads: which tokens, in words. n_families: that the bootstrap drew whole; None: it drew examples one by one.
        tpr_at, measured_fpr_at, fpr_interval_at: by allowed rate, ``"0.01"``, at the served threshold. Intervals are
            exact (Clopper and Pearson 1934), or those of the bootstrap over families where these are wider.
        by_seed: AUROC of the chosen configuration refitted with each seed. conditions: further figures by name.
        roc: false-positive rate, true-positive rate. worst: families with most errors, worst first.
    """

    concept: str
    reads: str
    n_positive: int
    n_negative: int
    n_unscored: int
    n_families: int | None = None
    auroc: Estimate
    auprc: Estimate
    tpr_at: dict[Rate, Estimate]
    measured_fpr_at: dict[Rate, float]
    fpr_interval_at: dict[Rate, tuple[float, float]] = Field(default_factory=dict)
    by_seed: tuple[float, ...]
    conditions: dict[str, float] = Field(default_factory=dict)
    candidates: tuple[Candidate, ...]
    roc: Curve
    calibration: CalibrationCard
    histograms: Histograms
    by_length: tuple[Group, ...] = ()
    by_source: tuple[Group, ...] = ()
    worst: tuple[Group, ...] = ()
    detection: DetectionTime | None = None
    comparisons: tuple[Comparison, ...] = ()
    shifts: tuple[ShiftCase, ...] = ()
    cascade: tuple[CascadePoint, ...] = ()
    heat_maps: tuple[HeatMap, ...] = ()


class Effect(Frozen):
    """What steering with a direction did to one behaviour or quantity.

    Attributes:
        name: of the quantity, such as ``refusal of harmful prompts``. steering: such as ``ablate 1.0``, or ``none``.
        before: without steering. after: with it. unit: ``rate``, ``nats``, ``ratio``, ...
    """

    name: str
    steering: str
    before: float | None
    after: Estimate
    unit: str = "rate"
    off_target: bool = False


class DosePoint(Frozen):
    """All quantities at one strength."""

    strength: float
    values: dict[str, float]


class DoseResponse(Frozen):
    """A quantity against strength for one operator."""

    operator: str
    points: tuple[DosePoint, ...]


class RandomControl(Frozen):
    """Random unit vectors in the direction's place: the change of the target behaviour that they cause."""

    operator: str
    n: int
    mean: float
    worst: float


class DirectionCandidate(Frozen):
    """A direction that was tried, with its validation figures (``bypass``, ``induce``, ``kl``, ...)."""

    layer: int
    position: str
    figures: dict[str, float]
    chosen: bool = False


class DirectionCard(Frozen):
    """The causal card of a direction: what it does, not how well it separates."""

    concept: str
    method: str
    layer: int
    position: str
    candidates: tuple[DirectionCandidate, ...]
    effects: tuple[Effect, ...]
    random: tuple[RandomControl, ...] = ()
    dose: tuple[DoseResponse, ...] = ()
    advice: str = ""


class Failure(Frozen):
    """What did not work: what was tried or wanted, and what was found."""

    what: str
    found: str


class Study(Frozen):
    """A further experiment as a table, with a sentence or two on how to read it."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    plot: Curve | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for row in self.rows:
            _same_length("a row of a study", row, "columns", self.columns)
        return self


class Card(Frozen):
    """All of it."""

    version: Literal[1] = 1
    note: str = ""
    advice: str = ""
    data: dict[str, object] = Field(default_factory=dict)
    settings: dict[str, object] = Field(default_factory=dict)
    probes: dict[str, ProbeCard] = Field(default_factory=dict)
    directions: dict[str, DirectionCard] = Field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    studies: tuple[Study, ...] = ()


def _same_length(what: str, found: Sized, like: str, wanted: Sized) -> None:
    if len(found) != len(wanted):
        raise ValueError(f"{what}: got {len(found)}, wanted as many as {like}: {len(wanted)}")
