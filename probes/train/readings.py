"""How token scores may become a decision: the small, stated set of ways among which validation chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from probes.types import FoldKind, FoldSpec, Scope

Rows = Literal["last", "means", "tokens"]


@dataclass(frozen=True)
class Reading:
    """How token scores become a decision, and which rows the weights are fitted on.

    Attributes:
        scope: positions that are read.
        fold: aggregation while serving.
        rows: ``last``: each example's last token; ``means``: each example's mean activation (the mean of
            scores is the score of the mean); ``tokens``: every token with its own target.
    """

    scope: Scope
    fold: FoldSpec
    rows: Rows

    def __str__(self) -> str:
        return f"{self.scope}/{self.fold.kind}/{self.rows}"


_MEAN_OF_3 = FoldSpec(kind=FoldKind.MEAN, min_tokens=3)
READINGS: Mapping[str, tuple[Reading, ...]] = {
    "prompt": (
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.LAST), "last"),
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.MEAN), "means"),
        Reading(Scope.LAST_USER, FoldSpec(kind=FoldKind.MAX), "tokens"),
    ),
    "response": (
        Reading(Scope.RESPONSE, _MEAN_OF_3, "means"),
        Reading(Scope.RESPONSE, _MEAN_OF_3, "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.EMA_MAX), "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.ROLLING_MEAN_MAX), "tokens"),
        Reading(Scope.RESPONSE, FoldSpec(kind=FoldKind.MAX), "tokens"),
    ),
}
