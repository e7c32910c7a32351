"""One probe of one concept: which tokens it learns from, how it is fitted, and what it then says.

Prompt probes must keep working while the refusal direction is ablated from the model. So that direction is
projected out of what they read, and ablated (and added) forward passes of the same examples are training
data too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.linear import score_tokens
from probes.train.collect import Activations
from probes.train.encode import Encoded
from probes.train.estimators.recipes import RECIPES, Dense, Folded
from probes.train.estimators.sequences import Sequences
from probes.train.readings import Reading, Rows
from probes.train.statistic import reported, statistics

Condition = Literal["plain", "ablated", "added"]
Passes = Mapping[Condition, Activations]
Values = NDArray[np.float64]
Labels = NDArray[np.int64]
MAX_ROWS = 40_000
MAX_SEQUENCES = 2048


@dataclass(frozen=True)
class Task:
    """One concept to fit.

    Attributes:
        train: activations by condition; the examples are the same in each. validation: likewise.
        families: of the training examples: what is resampled and held out as a whole.
        fpr: false-positive rate at which the TPR is taken.
        removed: ``(d_model,)`` fp32 unit vector that the probe must not read, or None.
        seed: of everything random.
    """

    train: Passes
    validation: Passes
    families: tuple[str, ...]
    fpr: float
    removed: Tensor | None
    seed: int

    @property
    def labels(self) -> Labels:
        """Of the training examples: ``(n,)``."""
        return np.array([e.label for e in self.train["plain"].examples], dtype=np.int64)


@dataclass(frozen=True)
class Configuration:
    """What there is to choose: 0-based layer, name of the estimator, reading, regularisation (None: has none)."""

    layer: int
    estimator: str
    reading: Reading
    regularisation: float | None

    @property
    def servable(self) -> bool:
        """Whether the engine could run it."""
        return self.estimator != "multi_head_max"


@dataclass(frozen=True)
class Columns:
    """What was learned, scaling folded in.

    Attributes:
        weights: ``(d_model, n_columns)`` fp32; one column, except for an estimator that cannot be served.
        bias: ``(n_columns,)`` fp32.
        query: ``(d_model,)`` fp32 of an attention probe, or None.
        loss: held-out cross-entropy, where the estimator has one.
    """

    weights: Tensor
    bias: Tensor
    query: Tensor | None = None
    loss: float | None = None

    def scores(self, values: Tensor) -> Tensor:
        """Token scores by the engine's own arithmetic: ``(n_tokens, d_model)`` to ``(n_tokens, n_columns)`` fp32."""
        return score_tokens(values, self.weights, self.bias)

    def queries(self, values: Tensor) -> Tensor | None:
        """Token queries, ``(n_tokens,)`` fp32, of an attention probe."""
        return None if self.query is None else score_tokens(values, self.query[:, None], torch.zeros(1))[:, 0]

    def statistic(self, values: Tensor, offsets: Tensor, reading: Reading) -> Values:
        """The streaming statistic of every example: ``(n_examples,)`` fp64, NaN unscored."""
        queries = self.queries(values)
        by_column = [statistics(s, offsets, reading.fold, reading.scope, queries) for s in self.scores(values).T]
        return np.asarray(np.sum(by_column, axis=0))  # several columns have the fold `max`, which never falls

    def reported(self, values: Tensor, offsets: Tensor, reading: Reading, threshold: float) -> Values:
        """The score of every example that its verdict reports, of one column: ``(n_examples,)`` fp64, NaN unscored."""
        (scores,) = self.scores(values).T
        return reported(scores, offsets, reading.fold, reading.scope, threshold, self.queries(values))


@dataclass(frozen=True)
class Design:
    """The training tokens of one layer, of all conditions, one behind the other.

    Attributes:
        values: ``(n_tokens, d_model)`` fp32, without the removed direction.
        offsets: ``(n_sequences + 1,)`` int64. examples: of each sequence.
        owner: index of the training example of each sequence.
        removed: as of the task.
    """

    values: Tensor
    offsets: Tensor
    examples: tuple[Encoded, ...]
    owner: NDArray[np.int64]
    removed: Tensor | None

    @classmethod
    def of(cls, passes: Passes, layer: int, removed: Tensor | None) -> Design:
        """Read one layer of every condition."""
        values = torch.cat([a.layer(layer) for a in passes.values()])
        if removed is not None:
            values = values - (values @ removed)[:, None] * removed
        lengths = torch.cat([a.offsets.diff() for a in passes.values()])
        return cls(
            values=values,
            offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
            examples=tuple(e for a in passes.values() for e in a.examples),
            owner=np.concatenate([np.arange(len(a.examples)) for a in passes.values()]),
            removed=removed,
        )


def fit_columns(
    design: Design, configuration: Configuration, labels: Labels, weights: Values, *, watched: Labels, seed: int
) -> Columns:
    """Fit one configuration.

    Args:
        design: of the configuration's layer.
        configuration: what to fit.
        labels: ``(n_train,)`` of the training examples: their own, or others for a control.
        weights: ``(n_train,)`` of the training examples: 0 leaves one out, 2 counts it twice.
        watched: indices of training examples on whose loss a learned fold stops; they are not learned from.
        seed: of the sample where there are more than ``MAX_ROWS`` rows or ``MAX_SEQUENCES`` sequences, and of what is
            learned from a random start.
    """
    recipe = RECIPES[configuration.estimator]
    if isinstance(recipe, Folded):
        return _fit_folded(design, recipe, configuration, labels, weights, watched, seed)
    return _fit_dense(design, recipe, configuration, labels, weights, seed)


def training_rows(
    values: Tensor, examples: Sequence[Encoded], offsets: Tensor, labels: Labels, rows: Rows
) -> tuple[Tensor, Labels, Values, Labels]:
    """Rows ``(m, d_model)``, and of each its target, its weight, and the index of its example.

    Args:
        values: ``(n_tokens, d_model)`` fp32 of one layer.
        examples: whose tokens these are. offsets: ``(n_examples + 1,)`` int64.
        labels: ``(n_examples,)``; with spans, of the tokens inside them, while the others keep the target 0.
        rows: which to take; see :class:`Reading`.
    """
    each = np.arange(len(examples))
    lengths = offsets.diff()
    owner = np.repeat(each, lengths.numpy())
    match rows:
        case "last":
            return values[offsets[1:] - 1], labels, np.ones(len(labels)), each
        case "means":
            sums = torch.zeros(len(lengths), values.shape[1]).index_add_(0, torch.from_numpy(owner), values)
            return sums / lengths[:, None], labels, np.ones(len(labels)), each
        case "tokens":
            weights = np.array([w for e in examples for w in e.weights], dtype=np.float64)
            return values, np.where(weights < 1, 0, labels[owner]), weights, owner
        case "sequences":
            raise ValueError("sequences are not rows: an estimator of rows has no reading of sequences")


def _fit_dense(
    design: Design, recipe: Dense, configuration: Configuration, labels: Labels, weights: Values, seed: int
) -> Columns:
    features, targets, counts, owner = training_rows(
        design.values, design.examples, design.offsets, labels[design.owner], configuration.reading.rows
    )
    counts = counts * weights[design.owner[owner]]
    kept = _at_most(MAX_ROWS, np.flatnonzero(counts), seed)
    probe = recipe.make(configuration.regularisation)
    probe.fit(features[torch.from_numpy(kept)].numpy(), targets[kept], sample_weight=counts[kept])
    solution, bias = probe.linear()
    return Columns(_without(torch.from_numpy(solution), design.removed)[:, None], torch.tensor([bias]))


def _fit_folded(
    design: Design,
    recipe: Folded,
    configuration: Configuration,
    labels: Labels,
    weights: Values,
    watched: Labels,
    seed: int,
) -> Columns:
    mine, counts = labels[design.owner], weights[design.owner]
    is_watched = np.isin(design.owner, watched)
    train = _at_most(MAX_SEQUENCES, np.flatnonzero((counts > 0) & ~is_watched), seed)
    held = _at_most(MAX_SEQUENCES // 2, np.flatnonzero(is_watched), seed)
    probe = recipe.make(configuration.regularisation, seed)
    probe.fit(
        _sequences(design, train),
        mine[train],
        sample_weight=counts[train],
        validation=(_sequences(design, held), mine[held]),
    )
    columns = torch.from_numpy(probe.columns_.astype(np.float32))
    query = _without(columns[1], design.removed) if configuration.estimator == "attention" else None
    columns = columns[:1] if query is not None else columns
    weights_ = torch.stack([_without(c, design.removed) for c in columns], dim=1)
    bias = torch.from_numpy(probe.biases_.astype(np.float32))[: len(columns)]
    return Columns(weights_, bias, query, probe.validation_loss_)


def _at_most(n: int, indices: Labels, seed: int) -> Labels:
    """All indices, or ``n`` of them drawn at random, in order."""
    if len(indices) <= n:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, n, replace=False))


def _sequences(design: Design, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Tokens and offsets of these sequences."""
    part = Sequences(design.values, design.offsets).take(torch.from_numpy(chosen))
    return part.values, part.offsets


def _without(weights: Tensor, removed: Tensor | None) -> Tensor:
    """``w (x - r r.x) = (w - (w.r) r) x``: the probe itself does the projection."""
    if removed is None:
        return weights
    unit = removed.double()
    wide = weights.double()
    return (wide - (wide @ unit) * unit).float()
