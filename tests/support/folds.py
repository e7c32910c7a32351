"""The folded score after every position, computed offline on the whole sequence at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from probes.fold import fold_sequence
from probes.scope import scope_interval
from probes.types import FoldKind, Probe, Scope
from tests.support.reference import Reference


def offline_folds(
    reference: Reference, scores: NDArray[np.float32], prompt: Sequence[int], probe: Probe
) -> NDArray[np.float64]:
    """``(n_tokens,)`` of ``scores`` ``(n_tokens, n_columns)``; NaN before the first scored token of the scope."""
    start, stop = scope_interval(probe.scope, prompt, reference.bundle.manifest.model.markers)
    inside = (np.arange(len(scores)) >= start) & (np.arange(len(scores)) < stop)
    values = scores[:, reference.columns.index(probe.name)].astype(np.float64)
    attends = probe.fold.kind is FoldKind.ATTENTION
    queries = scores[:, reference.columns.index(f"{probe.name}.query")].astype(np.float64) if attends else None
    return fold_sequence(
        probe.fold,
        torch.from_numpy(np.where(inside, values, math.nan)),
        None if queries is None else torch.from_numpy(queries),
    ).numpy()


def decided_folds(
    reference: Reference, scores: NDArray[np.float32], prompt: Sequence[int], probe: Probe
) -> NDArray[np.float64]:
    """:func:`offline_folds`, NaN where a rule on this probe decides nothing: all of the prompt but its last token."""
    folds = offline_folds(reference, scores, prompt, probe)
    folds[: len(prompt) - 1] = math.nan
    if probe.scope in (Scope.LAST_USER, Scope.PROMPT):
        folds[len(prompt) :] = math.nan
    return folds
