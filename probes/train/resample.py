"""Training examples held out or drawn again by whole template families, never one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold  # type: ignore[import-untyped]

from probes.errors import DataError

Labels = NDArray[np.int64]
FEWEST_FAMILIES = 5  # of each label: with fewer, a draw of families would often lack a label
N_FOLDS = 4
_TRIES = 100


def group_examples(families: Sequence[str], labels: Labels) -> tuple[Labels, bool]:
    """A group number for each example, and whether groups are families.

    With fewer than five families of a label, every example is a group by itself.
    """
    names = np.asarray(families, dtype=str)
    if min(len(np.unique(names[labels == k])) for k in (0, 1)) < FEWEST_FAMILIES:
        return np.arange(len(labels)), False
    return np.unique(names, return_inverse=True)[1].astype(np.int64), True


def folds(groups: Labels, labels: Labels, seed: int) -> list[tuple[Labels, Labels]]:
    """Indices to fit on and to hold out, four times or as often as there are groups of each label; groups stay whole.

    Raises:
        DataError: fewer than two groups of a label, or none of the folds has both labels on both sides.
    """
    fewest = min(len(np.unique(groups[labels == k])) for k in (0, 1))
    if fewest < 2:
        raise DataError(f"{fewest} training example of one label; wanted at least two of each. Label more examples.")
    splitter = StratifiedGroupKFold(n_splits=min(N_FOLDS, fewest), shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(labels)), labels, groups)
    found = [(a, b) for a, b in parts if len(set(labels[a])) == len(set(labels[b])) == 2]
    if not found:
        raise DataError("no part of the training families has both labels; wanted families of both labels.")
    return found


def bootstrap(groups: Labels, labels: Labels, seed: int) -> NDArray[np.float64]:
    """How often each example is drawn when as many groups are drawn as there are: ``(n,)``, both labels present.

    Source: the cluster bootstrap; Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.8.

    Raises:
        ValueError: no draw has both labels.
    """
    rng = np.random.default_rng(seed)
    n_groups = int(groups.max()) + 1
    for _ in range(_TRIES):
        counts = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)[groups]
        if len(set(labels[counts > 0])) == 2:
            return counts.astype(np.float64)
    raise ValueError(f"{_TRIES} draws of {n_groups} groups had one label only; wanted groups of both labels.")
