"""Token sequences: what they may come as, and how their scores are padded.

A sequence probe takes, as ``X``, one of

    (values, offsets)   ``(n_tokens, d_model)`` and ``(n + 1,)``: sequence i owns rows ``offsets[i]:offsets[i + 1]``
    a list of arrays    each ``(n_tokens_i, d_model)``
    a 2-D array         ``(n, d_model)``: every row is a sequence of one token

Padding is -inf, never 0: a maximum over zeros would depend on how long the other sequences of a batch are.
"""

# ruff: noqa: N803  (scikit-learn's contract names the rows X and the inverse penalty C)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]
from sklearn.utils.validation import validate_data  # type: ignore[import-untyped]
from torch import Tensor

SequencesLike = ArrayLike | list[Any] | tuple[Any, Any]


@dataclass(frozen=True)
class Sequences:
    """Token sequences, one behind the other, none empty.

    Attributes:
        values: ``(n_tokens, d_model)`` fp32.
        offsets: ``(n + 1,)`` int64.
    """

    values: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, chosen: Tensor) -> Sequences:
        """The sequences of these indices, ``(n_chosen,)`` int64, in their order."""
        lengths = self.offsets.diff()[chosen]
        ends = lengths.cumsum(0)
        first = torch.repeat_interleave(self.offsets[:-1][chosen] - ends + lengths, lengths)
        rows = first + torch.arange(int(ends[-1]))
        return Sequences(self.values[rows], torch.cat([ends.new_zeros(1), ends]))

    def scores(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Token scores by column, padded with -inf.

        Args:
            weights: ``(n_columns, d_model)`` fp32. bias: ``(n_columns,)`` fp32.

        Returns:
            ``(n, longest, n_columns)`` fp32.
        """
        flat = torch.addmm(bias, self.values, weights.T)
        lengths = self.offsets.diff()
        inside = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        padded = flat.new_full((*inside.shape, flat.shape[1]), -torch.inf)
        return padded.masked_scatter(inside[..., None], flat)


def as_sequences(estimator: BaseEstimator, X: SequencesLike, *, reset: bool) -> Sequences:
    """Check ``X`` in one of the forms above.

    Args:
        estimator: that is fitted (``reset``) or asked; remembers and checks the number of features.
        X: see the module docstring.
        reset: whether the number of features is learned.

    Raises:
        ValueError: as scikit-learn's estimators do; also for offsets that do not fit, or an empty sequence.
    """
    if isinstance(X, tuple) and len(X) == 2 and np.ndim(X[0]) == 2 and np.ndim(X[1]) == 1:
        values, offsets = X[0], np.asarray(X[1], dtype=np.int64)
    elif isinstance(X, list) and X and all(np.ndim(x) == 2 for x in X):
        values = np.concatenate([np.asarray(x) for x in X])
        offsets = np.cumsum([0, *(len(x) for x in X)])
    else:
        values, offsets = X, None
    checked = validate_data(estimator, values, reset=reset, dtype=np.float32)
    if offsets is None:
        offsets = np.arange(len(checked) + 1)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(checked) or (np.diff(offsets) < 1).any():
        raise ValueError(
            f"offsets run from {offsets[:1]} to {offsets[-1:]} over {len(checked)} tokens; wanted them to begin at 0, "
            "to end at the number of tokens, and to grow: every sequence has at least one token."
        )
    return Sequences(torch.from_numpy(np.ascontiguousarray(checked)), torch.from_numpy(offsets.astype(np.int64)))
