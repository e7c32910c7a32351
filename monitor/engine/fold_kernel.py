"""What is done for every row of a step, in one call for all requests and probes: compiled with numba.

:mod:`probes.fold` defines the folds; this is the same arithmetic one token at a time (tested against it), because a
decode step has one token for each of many requests, and some hundred small tensor operations would cost more than the
taps.

A fold's state is four numbers, ``COUNT`` to ``LOG_WEIGHT``, and for ``rolling_mean_max`` the newest scores.

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit  # type: ignore[import-untyped]  # numba has no type information
from numpy.typing import NDArray

from probes.types import FoldKind, FoldSpec

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

COUNT, VALUE, MEAN, LOG_WEIGHT = range(4)  # scored tokens, folded score, running mean or sum, log of the weights' sum
STATE = 4
KINDS = {kind: code for code, kind in enumerate(FoldKind)}
_LAST, _MEAN, _MAX, _EMA, _ROLLING = (
    KINDS[k] for k in (FoldKind.LAST, FoldKind.MEAN, FoldKind.MAX, FoldKind.EMA_MAX, FoldKind.ROLLING_MEAN_MAX)
)
_SOFTMAX, _ATTENTION, _CUSUM = KINDS[FoldKind.SOFTMAX], KINDS[FoldKind.ATTENTION], KINDS[FoldKind.CUSUM]


def parameter(spec: FoldSpec) -> float:
    """The one number that a kind needs: alpha, the temperature, the drift; 0 for the others."""
    by_kind = {FoldKind.EMA_MAX: spec.alpha, FoldKind.SOFTMAX: spec.temperature, FoldKind.CUSUM: spec.drift}
    return by_kind.get(spec.kind, 0.0)


@njit  # type: ignore[untyped-decorator]  # as numba
def fold_token(
    kind: int, parameter: float, window: int, state: Floats, recent: Floats, score: float, query: float
) -> None:
    """Take one scored token into ``state`` ``(STATE,)`` and ``recent`` ``(longest window,)``, in place."""
    fresh = state[COUNT] == 0
    state[COUNT] += 1
    value = score
    if kind == _MEAN:
        state[MEAN] += (score - state[MEAN]) / state[COUNT]
        value = state[MEAN]
    elif kind == _EMA:
        state[MEAN] = score if fresh else parameter * score + (1.0 - parameter) * state[MEAN]
        value = state[MEAN]
    elif kind == _ROLLING:
        recent[int(state[COUNT] - 1) % window] = score
        n = min(int(state[COUNT]), window)
        value = recent[:n].sum() / n
    elif kind in (_SOFTMAX, _ATTENTION):
        log_weight = query if kind == _ATTENTION else score / parameter
        if fresh:
            state[LOG_WEIGHT], state[MEAN] = log_weight, score
        else:
            high, low = max(state[LOG_WEIGHT], log_weight), min(state[LOG_WEIGHT], log_weight)
            total = high + math.log1p(math.exp(low - high))
            state[MEAN] += math.exp(log_weight - total) * (score - state[MEAN])
            state[LOG_WEIGHT] = total
        value = state[MEAN]
    elif kind == _CUSUM:
        state[MEAN] = max(0.0, state[MEAN] + score - parameter)
        value = state[MEAN]
    keeps_highest = kind in (_MAX, _EMA, _ROLLING, _CUSUM)
    state[VALUE] = max(state[VALUE], value) if keeps_highest and not fresh else value


@njit  # type: ignore[untyped-decorator]  # as numba
def fold_rows(
    slots: Ints, positions: Ints, scores: NDArray[np.float32], kinds: Ints, parameters: Floats, windows: Ints,
    min_tokens: Ints, values: Ints, queries: Ints, followed: NDArray[np.bool_], inside: Ints, decides: Ints,
    lowest: Floats, state: Floats, recent: Floats, position: Ints, scored: Ints, folded: Floats, reached: Floats,
) -> bool:  # fmt: skip
    """Fold the rows of one step in order; a row whose position is not its request's next one is passed over.

    Args:
        slots, positions: ``(n,)`` int64, of the rows. scores: ``(n, n_columns)`` fp32, NaN: unscored.
        kinds, parameters, windows, min_tokens, values, queries: ``(p,)``, of the probes; the last two are columns.
        followed: ``(capacity,)`` bool. inside, decides: ``(capacity, p, 2)`` positions that are folded, that may trip.
        lowest: ``(capacity, p)`` lowest threshold that has not been reached.
        state, recent: ``(capacity, p, STATE)``, ``(capacity, p, longest window)`` fp64, changed.
        position, scored: ``(capacity,)`` int64, next position and scored ones so far, changed.
        folded: ``(capacity, p)`` fp64, newest folded scores, changed.
        reached: ``(n, p)`` fp64, the folded score where it reaches ``lowest``, else NaN; written.

    Returns:
        Whether any was reached.
    """
    tripped = False
    for row in range(len(slots)):
        slot, at = slots[row], positions[row]
        reached[row] = np.nan
        if not followed[slot] or at != position[slot]:
            continue
        position[slot] += 1
        scored[slot] += not np.isnan(scores[row]).any()
        for p in range(len(kinds)):
            if not inside[slot, p, 0] <= at < inside[slot, p, 1]:
                continue
            score, query = float(scores[row, values[p]]), float(scores[row, queries[p]])
            if not (math.isnan(score) or (kinds[p] == _ATTENTION and math.isnan(query))):
                fold_token(kinds[p], parameters[p], windows[p], state[slot, p], recent[slot, p], score, query)
            if state[slot, p, COUNT] < min_tokens[p]:
                continue
            folded[slot, p] = state[slot, p, VALUE]
            if decides[slot, p, 0] <= at < decides[slot, p, 1] and folded[slot, p] >= lowest[slot, p]:
                reached[row, p] = folded[slot, p]
                tripped = True
    return tripped


@njit  # type: ignore[untyped-decorator]  # as numba
def keep_rows(
    scores: NDArray[np.float32], slots: Ints, positions: Ints, tokens: Ints, kept: NDArray[np.float32],
    kept_positions: NDArray[np.int32], kept_tokens: NDArray[np.int32],
) -> None:  # fmt: skip
    """Make what is no number in ``scores`` ``(n, n_columns)`` NaN, and keep the rows under their KV slots ``(n,)``.

    Args:
        positions, tokens: ``(n,)`` int64, the tags.
        kept, kept_positions, kept_tokens: of the score cache, by KV slot, changed.
    """
    for row in range(len(slots)):
        slot = slots[row]
        for column in range(scores.shape[1]):
            if not math.isfinite(scores[row, column]):
                scores[row, column] = np.nan
            kept[slot, column] = scores[row, column]
        kept_positions[slot], kept_tokens[slot] = positions[row], tokens[row]
