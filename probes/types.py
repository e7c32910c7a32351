"""The nouns of ``probes``: frozen, validated, and importable without torch.

Shape conventions used everywhere:

    d_model      width of the residual stream
    n_tokens     rows of one batch, or positions of one sequence
    n_columns    linear columns: one per (probe, layer); several probes may share a layer

A **layer** is a 0-based decoder block; its **activation** is the block's output on the residual stream,
``hidden_states[layer + 1]`` in transformers. A **score** is a raw logit (fp32); NaN means *unscored*,
never *safe*.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 2
_LEAST_PROBABILITY = 1e-9


class Frozen(BaseModel):
    """A pydantic model that cannot be changed and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scope(StrEnum):
    """The positions over which a fold runs."""

    LAST_USER = "last_user"
    PROMPT = "prompt"
    RESPONSE = "response"
    ALL = "all"

    @property
    def phase(self) -> Literal["prompt", "response"]:
        """When the folded score is final enough to decide: at the prompt's end, or at every response token."""
        return "prompt" if self in (Scope.LAST_USER, Scope.PROMPT) else "response"


class FoldKind(StrEnum):
    """Streaming aggregations of token scores; the formulas are in :mod:`probes.fold`."""

    LAST = "last"
    MEAN = "mean"
    MAX = "max"
    EMA_MAX = "ema_max"
    ROLLING_MEAN_MAX = "rolling_mean_max"
    SOFTMAX = "softmax"
    ATTENTION = "attention"
    CUSUM = "cusum"


class FoldSpec(Frozen):
    """A fold and its parameters.

    Attributes:
        kind: which aggregation.
        alpha: weight of the newest token in ``ema_max``.
        window: tokens averaged by ``rolling_mean_max``.
        temperature: logits by which the weight of a token in ``softmax`` grows e-fold; the lower, the nearer to
            ``max``.
        drift: logits taken off every token by ``cusum``: the mean log-odds of benign tokens.
        min_tokens: scored tokens needed before the folded score may trip; before that it is NaN.
    """

    kind: FoldKind
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.3
    window: Annotated[int, Field(ge=1, le=64)] = 4
    temperature: Annotated[float, Field(ge=0.01)] = 5.0
    drift: float = 0.0
    min_tokens: Annotated[int, Field(ge=1, le=1024)] = 1


class Threshold(Frozen):
    """A cut on the folded score, with the data that it was set on.

    Attributes:
        value: logit; a folded score ``>= value`` trips.
        fpr: highest false-positive rate that was allowed when it was chosen.
        measured_fpr: false-positive rate of ``value`` on those negatives (``<= fpr``).
        n_negatives: how many negatives it was set on.
        data: name of the split, for people.
        method: ``empirical``: the lowest cut whose rate on those negatives is allowed; ``conformal``: one whose
            expected rate on exchangeable negatives is allowed, if the probe was not chosen on the same ones.
        fpr_high: with 95 % confidence, the false-positive rate on traffic like those negatives is no higher, again if
            the probe was not chosen on them; what was measured on others is in the card.
    """

    value: float
    fpr: Annotated[float, Field(gt=0, lt=1)]
    measured_fpr: Annotated[float, Field(ge=0, lt=1)]
    n_negatives: Annotated[int, Field(ge=1)]
    data: str
    method: Literal["empirical", "conformal"] = "empirical"
    fpr_high: Annotated[float, Field(ge=0, le=1)] | None = None


class Calibration(Frozen):
    """Probability from the folded score: isotonic if there are knots, else Platt's sigmoid.

    Attributes:
        slope: of the sigmoid, ``sigmoid(slope * score + intercept)``. intercept: of the sigmoid.
        knots: ``(score, probability)``, scores ascending and probabilities not falling: straight lines between
            them, constant beyond the ends.

    Source: Platt 1999, "Probabilistic outputs for support vector machines"; Zadrozny and Elkan 2002,
    "Transforming classifier scores into accurate multiclass probability estimates" (isotonic).
    """

    slope: float
    intercept: float
    knots: tuple[tuple[float, float], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Calibration:
        for (score, probability), (next_score, next_probability) in pairwise(self.knots):
            if score >= next_score or probability > next_probability:
                raise ValueError(
                    f"knots must ascend: ({score:g}, {probability:g}) comes before ({next_score:g}, "
                    f"{next_probability:g}); wanted rising scores and probabilities that do not fall."
                )
        if outside := [p for _, p in self.knots if not 0 <= p <= 1]:
            raise ValueError(f"a knot has probability {outside[0]:g}; wanted one between 0 and 1.")
        return self

    def probability(self, score: float) -> float:
        """Probability of the concept, never 0 or 1 itself; NaN (unscored) for a NaN score."""
        if math.isnan(score):
            return math.nan
        probability = _interpolate(self.knots, score) if self.knots else _sigmoid(self.slope * score + self.intercept)
        return min(max(probability, _LEAST_PROBABILITY), 1 - _LEAST_PROBABILITY)


def _interpolate(knots: tuple[tuple[float, float], ...], score: float) -> float:
    after = bisect_right(knots, score, key=lambda knot: knot[0])
    if after in (0, len(knots)):
        return knots[max(after - 1, 0)][1]
    (left, low), (right, high) = knots[after - 1], knots[after]
    share = (score - left) / (right - left)
    return min(max(low + share * (high - low), low), high)  # rounding must not leave the two knots


def _sigmoid(logit: float) -> float:
    """Without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


class Histogram(Frozen):
    """Reference distribution of the folded score on negatives: ``len(edges) == len(counts) + 1``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Probe(Frozen):
    """One linear column: ``score = activation @ weights + bias``, scaling folded into the weights.

    The weights themselves are ``(d_model,)`` fp32 in the bundle's tensor ``probe.<name>.weights``. A probe whose
    fold is ``attention`` has a second column, ``query = activation @ probe.<name>.query``, of the same shape and
    type. It has no bias, which would cancel in the softmax.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    concept: str
    layer: Annotated[int, Field(ge=0)]
    bias: float
    fold: FoldSpec
    scope: Scope
    thresholds: Annotated[tuple[Threshold, ...], Field(min_length=1)]
    calibration: Calibration
    reference: Histogram
    metrics: dict[str, float] = {}

    def threshold_at(self, fpr: float) -> Threshold | None:
        """The threshold that was set at exactly this false-positive rate, or None."""
        return next((t for t in self.thresholds if abs(t.fpr - fpr) < 1e-12), None)


class Direction(Frozen):
    """A unit vector in the residual stream and where it acts.

    The vector is ``(d_model,)`` fp32, unit norm, in the tensor ``direction.<name>.vector``.
    ``add`` with strength s writes ``s * magnitude * vector`` onto the output of ``layer``;
    ``ablate`` with strength s removes ``s`` times the projection from every write to the stream.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    concept: str
    layer: Annotated[int, Field(ge=0)]
    magnitude: Annotated[float, Field(gt=0)]
    position: str
    metrics: dict[str, float] = {}


class RoleMarkers(Frozen):
    """Token ids by which the chat template opens a user and an assistant turn, and closes a turn.

    Empty tuples: the model has no chat template, and ``last_user`` means the whole prompt.
    """

    user: tuple[int, ...] = ()
    assistant: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


class Fingerprint(Frozen):
    """What a bundle is bound to; every field is a SHA-256 in hex, made from files."""

    config: str
    tokenizer: str
    chat_template: str
    weights: str


class ModelInfo(Frozen):
    """The model that a bundle belongs to."""

    name: str
    architecture: str
    n_layers: Annotated[int, Field(ge=1)]
    d_model: Annotated[int, Field(ge=1)]
    fingerprint: Fingerprint
    markers: RoleMarkers


class Manifest(Frozen):
    """``bundle.json``: everything about a bundle except the tensors and what was measured (:mod:`probes.cards`)."""

    schema_version: Literal[2] = 2
    name: str
    version: str
    created: str
    model: ModelInfo
    probes: tuple[Probe, ...]
    directions: tuple[Direction, ...]

    def probe(self, name: str) -> Probe | None:
        """The probe of this name, or None."""
        return next((p for p in self.probes if p.name == name), None)

    def direction(self, name: str) -> Direction | None:
        """The direction of this name, or None."""
        return next((d for d in self.directions if d.name == name), None)
