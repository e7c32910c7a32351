"""The estimators that a selection may choose among: how each is made, and the regularisations to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from probes.train.estimators.folded import AttentionProbe, MultiHeadMaxProbe, SoftmaxProbe
from probes.train.estimators.linear import LDAProbe, LinearProbe, LogisticProbe, MassMeanProbe, RidgeProbe
from probes.train.estimators.sequence_probe import SequenceProbe


@dataclass(frozen=True)
class Dense:
    """An estimator of rows: made from its regularisation.

    Attributes:
        default: to begin with. grid: what is tried for finalists; empty where nothing can be set.
    """

    make: Callable[[float | None], LinearProbe]
    default: float | None
    grid: tuple[float, ...] = ()


@dataclass(frozen=True)
class Folded:
    """An estimator of token sequences: made from its weight decay and a seed. Attributes as of :class:`Dense`."""

    make: Callable[[float | None, int], SequenceProbe]
    default: float | None
    grid: tuple[float, ...] = ()


_PATIENCE = 10

Recipe = Dense | Folded

RECIPES: Mapping[str, Recipe] = {
    "logistic": Dense(lambda c: LogisticProbe(C=c or 0.1), 0.1, (0.01, 0.1, 1.0)),
    "mass_mean": Dense(lambda _: MassMeanProbe(), None),
    "lda": Dense(lambda s: LDAProbe(shrinkage=s or 0.1), 0.1, (0.01, 0.1, 0.5)),
    "ridge": Dense(lambda a: RidgeProbe(alpha=a or 100.0), 100.0, (10.0, 100.0, 1000.0)),
    "softmax": Folded(
        lambda d, s: SoftmaxProbe(weight_decay=d or 1e-3, patience=_PATIENCE, random_state=s), 1e-3, (1e-3, 1.0)
    ),
    "attention": Folded(
        lambda d, s: AttentionProbe(weight_decay=d or 1e-3, patience=_PATIENCE, random_state=s), 1e-3, (1e-3, 1.0)
    ),
    "multi_head_max": Folded(
        lambda d, s: MultiHeadMaxProbe(weight_decay=d or 3e-3, patience=_PATIENCE, random_state=s), 3e-3
    ),
}
