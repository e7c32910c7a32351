"""How token scores may become a decision: the small, stated set of ways among which validation chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from probes.types import FoldKind, FoldSpec, Scope

Rows = Literal["last", "means", "tokens", "sequences"]
Phase = Literal["prompt", "response"]


@dataclass(frozen=True)
class Reading:
    """How token scores become a decision, and which rows the weights are fitted on.

    Attributes:
        scope: positions that are read.
        fold: aggregation while serving; of several score columns each is folded, and the folds are summed.
        rows: ``last``: each example's last token; ``means``: each example's mean activation (the mean of
            scores is the score of the mean); ``tokens``: every token with its own target; ``sequences``: each
            example's tokens together, through the fold.
    """

    scope: Scope
    fold: FoldSpec
    rows: Rows

    def __str__(self) -> str:
        return f"{self.scope}/{self.fold.kind}/{self.rows}"


_MIN_TOKENS = {"prompt": 1, "response": 3}  # a mean over the first word of a response says little
_SCOPES = {"prompt": Scope.LAST_USER, "response": Scope.RESPONSE}
_MEAN_OF_3 = FoldSpec(kind=FoldKind.MEAN, min_tokens=3)
# What a dense estimator is served by.
READINGS: Mapping[Phase, tuple[Reading, ...]] = {
    "prompt": (
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.LAST), "last"),
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.MEAN), "means"),
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.SOFTMAX), "tokens"),
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.MAX), "tokens"),
    ),
    "response": (
        Reading(Scope.RESPONSE, _MEAN_OF_3, "means"),
        Reading(Scope.RESPONSE, _MEAN_OF_3, "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.EMA_MAX), "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX), "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.SOFTMAX, min_tokens=3), "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.MAX), "tokens"),
    ),
}
_LEARNED: Mapping[str, FoldKind] = {
    "softmax": FoldKind.SOFTMAX,
    "attention": FoldKind.ATTENTION,
    "multi_head_max": FoldKind.MAX,
}


def learned_reading(estimator: str, phase: Phase) -> Reading:
    """The reading of an estimator that learns through its fold."""
    kind = _LEARNED[estimator]
    min_tokens = 1 if kind is FoldKind.MAX else _MIN_TOKENS[phase]
    return Reading(_SCOPES[phase], FoldSpec(kind=kind, min_tokens=min_tokens), "sequences")
