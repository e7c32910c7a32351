"""What the features of an autoencoder say about whole examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scipy.stats import rankdata  # type: ignore[import-untyped]
from torch import Tensor

from probes.train.collect import Activations
from probes.train.metrics import Floats, Labels
from probes.train.studies.autoencoder import SparseAutoencoder
from probes.types import FoldKind

Pooling = Literal["last", "mean", "max"]
_ROWS = 4096


def pooling_of(fold: FoldKind) -> Pooling:
    """How an example's tokens are put together, as near as possible to the fold that the plain probe is served by."""
    match fold:
        case FoldKind.LAST:
            return "last"
        case FoldKind.MEAN:
            return "mean"
        case _:
            return "max"


def pooled_features(model: SparseAutoencoder, activations: Activations, layer: int, pooling: Pooling) -> Floats:
    """Feature activations of every example, pooled over its tokens in scope: ``(n_examples, n_features)`` fp64."""
    return _pool(model.features, activations, layer, pooling)


def pooled_activations(activations: Activations, layer: int, pooling: Pooling) -> Floats:
    """The activations themselves, pooled in the same way: ``(n_examples, d_model)`` fp64."""
    return _pool(lambda rows: rows, activations, layer, pooling)


def feature_aurocs(features: Floats, labels: Labels) -> Floats:
    """AUROC of every column, ties counted half: ``(n_examples, n)`` to ``(n,)``.

    Source: the Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982).
    """
    n_positive = int(labels.sum())
    n_negative = len(labels) - n_positive
    ranks = rankdata(features, axis=0)[labels == 1].sum(axis=0)
    return np.asarray((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _pool(transform: Callable[[Tensor], Tensor], activations: Activations, layer: int, pooling: Pooling) -> Floats:
    lengths = activations.offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    last = activations.offsets[1:] - 1
    pooled: Tensor | None = None
    for place, rows in activations.batches(layer, _ROWS):
        values, mine = transform(rows), owner[place]
        if pooled is None:
            pooled = torch.full((len(lengths), values.shape[1]), -torch.inf if pooling == "max" else 0.0)
        match pooling:
            case "mean":
                pooled.index_add_(0, mine, values / lengths[mine, None])
            case "max":
                pooled.scatter_reduce_(0, mine[:, None].expand_as(values), values, "amax")
            case "last":
                is_last = torch.isin(torch.arange(place.start, place.stop), last)
                pooled[mine[is_last]] = values[is_last]
    assert pooled is not None
    return np.asarray(pooled.double().numpy())
