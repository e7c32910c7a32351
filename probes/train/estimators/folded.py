"""Probes of token sequences, learned through the very fold by which they are served.

    SoftmaxProbe        sum of softmax(s / temperature) * s            the engine's fold ``softmax``
    AttentionProbe      sum of softmax(q) * s, two linear columns      the engine's fold ``attention``
    MultiHeadMaxProbe   sum over heads of the highest s of each head   not served; for comparison

Source: softmax and attention: McKenzie et al. 2025 (arXiv:2506.10805), their optimiser settings too; multi-head
maximum: "Building production-ready probes" (arXiv:2601.11516), here with linear heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probes.train.estimators.sequence_probe import SequenceProbe
from probes.types import FoldKind, FoldSpec


class SoftmaxProbe(SequenceProbe):
    """One column, folded by a softmax of its own scores.

    Args:
        temperature: of the softmax, logits.
        lr, weight_decay, epochs, patience, batch_size, n_init, validation_fraction, random_state: see
            :class:`SequenceProbe`.
    """

    def __init__(
        self,
        temperature: float = 5.0,
        lr: float = 5e-3,
        weight_decay: float = 1e-3,
        epochs: int = 200,
        patience: int = 20,
        batch_size: int = 256,
        n_init: int = 1,
        validation_fraction: float = 0.2,
        random_state: int = 0,
    ) -> None:
        super().__init__(lr, weight_decay, epochs, patience, batch_size, n_init, validation_fraction, random_state)
        self.temperature = temperature

    def fold_spec(self, min_tokens: int = 1) -> FoldSpec:
        """The fold that serves this probe."""
        return FoldSpec(kind=FoldKind.SOFTMAX, temperature=self.temperature, min_tokens=min_tokens)

    def _fold(self, scores: Tensor) -> Tensor:
        return _weighted(scores[..., 0], scores[..., 0] / self.temperature)


class AttentionProbe(SequenceProbe):
    """Two columns: what a token says, and how much it counts.

    Args:
        lr, weight_decay, epochs, patience, batch_size, n_init, validation_fraction, random_state: see
            :class:`SequenceProbe`.

    Attributes:
        query_: ``(d_model,)`` fp64, the second column; its bias would cancel in the softmax.
    """

    def fold_spec(self, min_tokens: int = 1) -> FoldSpec:
        """The fold that serves this probe."""
        return FoldSpec(kind=FoldKind.ATTENTION, min_tokens=min_tokens)

    @property
    def query_(self) -> NDArray[np.float64]:
        """Weights of the query: ``(d_model,)`` fp64."""
        return np.asarray(self.columns_[1])

    @property
    def _n_columns(self) -> int:
        return 2

    def _fold(self, scores: Tensor) -> Tensor:
        return _weighted(scores[..., 0], scores[..., 1])


class MultiHeadMaxProbe(SequenceProbe):
    """Several columns, the highest token of each, summed. The engine has no such fold.

    Args:
        n_heads: columns.
        lr, weight_decay, epochs, patience, batch_size, n_init, validation_fraction, random_state: see
            :class:`SequenceProbe`.
    """

    servable = False

    def __init__(
        self,
        n_heads: int = 10,
        lr: float = 5e-3,
        weight_decay: float = 3e-3,
        epochs: int = 200,
        patience: int = 20,
        batch_size: int = 256,
        n_init: int = 1,
        validation_fraction: float = 0.2,
        random_state: int = 0,
    ) -> None:
        super().__init__(lr, weight_decay, epochs, patience, batch_size, n_init, validation_fraction, random_state)
        self.n_heads = n_heads

    @property
    def _n_columns(self) -> int:
        return self.n_heads

    def _fold(self, scores: Tensor) -> Tensor:
        return scores.amax(dim=1).sum(dim=1)


def _weighted(scores: Tensor, log_weights: Tensor) -> Tensor:
    """Mean of ``(n, longest)`` scores by the softmax of their log weights; both are -inf where there is no token."""
    return (log_weights.softmax(dim=1) * scores.masked_fill(scores.isneginf(), 0.0)).sum(dim=1)
