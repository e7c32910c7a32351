"""The numbers that serving makes of token scores, computed offline exactly as the engine does.

The *statistic* is what trips or does not. Prompt scopes decide once, after the last prompt token: the statistic is the
folded score there. Response scopes may trip at any token: the statistic is the highest folded score over all positions.

The *reported* score is the one that a verdict names, and turns into a probability: of a prompt the statistic; of a
response the folded score that tripped, or the newest one where none did. It lies below the statistic wherever a
response went on after its trip, or came near the threshold and went away again.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes import fold as folds
from probes.types import FoldSpec, Scope


def statistics(
    scores: Tensor, offsets: Tensor, fold: FoldSpec, scope: Scope, queries: Tensor | None = None
) -> NDArray[np.float64]:
    """The streaming statistic of every example.

    Args:
        scores: ``(n_tokens,)`` fp32, the scores of all examples' tokens in scope, one behind the other.
        offsets: ``(n_examples + 1,)`` int64.
        fold: aggregation.
        scope: decides which position counts.
        queries: ``(n_tokens,)`` fp32, for the fold ``attention`` only.

    Returns:
        ``(n_examples,)`` fp64; NaN where fewer than ``fold.min_tokens`` tokens were scored: unscored.
    """
    folded = _folded(scores, offsets, fold, queries)
    if scope.phase == "prompt":
        return np.asarray(folded[:, -1].numpy())  # padding is NaN, which a fold skips
    highest = torch.nan_to_num(folded, nan=-torch.inf).max(dim=1).values
    return np.asarray(highest.masked_fill(folded.isnan().all(dim=1), torch.nan).numpy())


def reported(
    scores: Tensor, offsets: Tensor, fold: FoldSpec, scope: Scope, threshold: float, queries: Tensor | None = None
) -> NDArray[np.float64]:
    """The score of every example that its verdict reports, ``(n_examples,)`` fp64; NaN unscored.

    Args:
        scores, offsets, fold, scope, queries: as of :func:`statistics`.
        threshold: of the folded score, at which the verdict is made.
    """
    folded = _folded(scores, offsets, fold, queries)
    newest = folded[:, -1]
    if scope.phase == "prompt":
        return np.asarray(newest.numpy())
    reached = folded >= threshold  # NaN does not
    first = folded.gather(1, reached.int().argmax(dim=1, keepdim=True))[:, 0]
    return np.asarray(torch.where(reached.any(dim=1), first, newest).numpy())


def _folded(scores: Tensor, offsets: Tensor, fold: FoldSpec, queries: Tensor | None) -> Tensor:
    """The folded score after each token, ``(n_examples, longest)`` fp64; the newest one stays behind the last token."""
    padded = pad_rows(scores, offsets)
    asked = None if queries is None else pad_rows(queries, offsets)
    return folds.update(fold, folds.init_state(fold, len(padded)), padded, asked)[0]


def pad_rows(scores: Tensor, offsets: Tensor) -> Tensor:
    """``(n_tokens,)`` to ``(n_examples, longest)``, NaN where an example has no token."""
    lengths = offsets.diff()
    padded = scores.new_full((len(lengths), int(lengths.max())), torch.nan)
    padded[torch.arange(padded.shape[1])[None] < lengths[:, None]] = scores
    return padded


def never_trips(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unscored examples as ``-inf``: they cannot trip, which is how they count in a rate of trips."""
    return np.where(np.isnan(values), -np.inf, values)


def worst_case(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """For ranking: an unscored positive below everything, an unscored negative above everything; never a free win."""
    return np.where(np.isnan(values), np.where(labels == 1, -np.inf, np.inf), values)
