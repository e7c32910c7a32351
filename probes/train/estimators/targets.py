"""The labels and weights of a two-class estimator, checked as scikit-learn checks them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets, type_of_target  # type: ignore[import-untyped]
from sklearn.utils.validation import _check_sample_weight  # type: ignore[import-untyped]


def check_targets(
    y: NDArray[Any], sample_weight: ArrayLike | None, rows: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]:
    """Classes ``(2,)``, labels ``(n,)`` of 0 and 1, and weights ``(n,)`` fp64.

    Args:
        y: ``(n,)``, validated.
        sample_weight: ``(n,)``, or None for ones.
        rows: anything of ``n`` entries, to compare lengths with.

    Raises:
        ValueError: more than two classes, or only one that has weight.
    """
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind != "binary":
        raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
    weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    classes, labels = np.unique(y, return_inverse=True)
    seen = np.unique(labels[weights > 0])
    if len(seen) < 2:
        raise ValueError(
            f"wanted two classes with rows of positive weight; there is {len(seen)} class "
            f"({', '.join(map(str, classes[seen]))}). Label examples of the other class."
        )
    return classes, labels.astype(np.int64), np.asarray(weights)
