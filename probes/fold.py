"""Streaming aggregation of token scores: the reference implementation, offline and in the engine.

A fold turns the token scores seen so far into one folded score. :func:`update` consumes one chunk of
tokens and returns the folded score *after every token*, because a detector may trip anywhere inside a
chunk. Any chunking gives the same numbers (property-tested).

With s_1..s_n the scored tokens in scope (NaN tokens are unscored or out of scope, and skipped):

    last               s_n
    mean               (s_1 + ... + s_n) / n
    max                max s_i
    ema_max            max over i of e_i,  e_1 = s_1,  e_i = alpha s_i + (1 - alpha) e_{i-1}
    rolling_mean_max   max over i of the mean of the last min(i, window) scores

While fewer than ``min_tokens`` tokens were scored the folded score is NaN: unscored, never safe.

State is ``(n, state_width(spec))`` fp64, one row for each (request, detector): the count of scored tokens,
the current folded score, then what the kind needs. A fresh row is zeros.

Source: aggregations as compared by McKenzie et al. 2025 (arXiv:2506.10805) and in "Building
production-ready probes" (arXiv:2601.11516).
"""

from __future__ import annotations

import torch
from torch import Tensor

from probes.errors import ShapeError
from probes.types import FoldKind, FoldSpec

_COUNT, _VALUE, _EXTRA = 0, 1, 2
_EMA_BLOCK = 64


def state_width(spec: FoldSpec) -> int:
    """Numbers of state that one (request, detector) needs."""
    match spec.kind:
        case FoldKind.EMA_MAX:
            return _EXTRA + 1
        case FoldKind.ROLLING_MEAN_MAX:
            return _EXTRA + spec.window - 1
        case _:
            return _EXTRA


def init_state(spec: FoldSpec, n: int, device: torch.device | str = "cpu") -> Tensor:
    """A fresh state: ``(n, state_width(spec))`` fp64 zeros."""
    return torch.zeros(n, state_width(spec), dtype=torch.float64, device=device)


def update(spec: FoldSpec, state: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Fold one chunk into ``state``.

    Runs in: vLLM worker after the forward pass, outside the graph; and offline.

    Args:
        spec: kind and parameters, the same for all rows.
        state: ``(n, state_width(spec))`` fp64, left unchanged.
        scores: ``(n, n_tokens)``, logits; NaN where a token is unscored, out of scope or padding.

    Returns:
        The folded score after every token, ``(n, n_tokens)`` fp64, NaN while fewer than
        ``spec.min_tokens`` were scored; and the new state.

    Raises:
        ShapeError: ``state`` and ``scores`` differ in rows, or the state is of another fold.
    """
    if state.shape != (scores.shape[0], state_width(spec)):
        raise ShapeError(
            f"state {tuple(state.shape)} does not fit scores {tuple(scores.shape)} under {spec.kind}: "
            f"wanted ({scores.shape[0]}, {state_width(spec)}). Was it made by init_state for this fold?"
        )
    if scores.shape[1] == 0:
        return scores.new_empty(scores.shape, dtype=torch.float64), state.clone()
    scores = scores.to(torch.float64)
    valid = ~torch.isnan(scores)
    seen = valid.cumsum(1)  # scored tokens of this chunk up to and including each position
    order = torch.argsort(~valid, dim=1, stable=True)  # scored tokens first, in order
    packed = torch.nan_to_num(scores.gather(1, order), nan=0.0)
    n_new = seen[:, -1:]

    folded, extra = _FOLDS[spec.kind](spec, state, packed, n_new)

    history = torch.cat([state[:, _VALUE : _VALUE + 1], folded], dim=1)
    values = history.gather(1, seen)
    count = state[:, _COUNT : _COUNT + 1] + seen
    new_state = torch.cat([state[:, :1] + n_new, history.gather(1, n_new), extra], dim=1)
    return values.masked_fill(count < spec.min_tokens, torch.nan), new_state


def fold_sequence(spec: FoldSpec, scores: Tensor) -> Tensor:
    """The folded score after every token of one sequence: ``(n_tokens,)`` in, ``(n_tokens,)`` fp64 out."""
    values, _ = update(spec, init_state(spec, 1, scores.device), scores[None])
    return values[0]


def _running_max(state: Tensor, values: Tensor) -> Tensor:
    """Maximum so far, including the maximum kept in the state (none on a fresh row)."""
    fresh = state[:, _COUNT : _COUNT + 1] == 0
    before = state[:, _VALUE : _VALUE + 1].masked_fill(fresh, -torch.inf)
    return torch.maximum(values.cummax(1).values, before)


def _last(_: FoldSpec, state: Tensor, packed: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
    return packed, state[:, _EXTRA:]


def _mean(_: FoldSpec, state: Tensor, packed: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
    count = state[:, _COUNT : _COUNT + 1]
    steps = torch.arange(1, packed.shape[1] + 1, dtype=torch.float64, device=packed.device)
    total = count * state[:, _VALUE : _VALUE + 1] + packed.cumsum(1)
    return total / (count + steps), state[:, _EXTRA:]


def _max(_: FoldSpec, state: Tensor, packed: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
    return _running_max(state, packed), state[:, _EXTRA:]


def _ema_max(spec: FoldSpec, state: Tensor, packed: Tensor, n_new: Tensor) -> tuple[Tensor, Tensor]:
    keep = 1.0 - spec.alpha
    fresh = state[:, _COUNT : _COUNT + 1] == 0
    start = torch.where(fresh, packed[:, :1], state[:, _EXTRA : _EXTRA + 1])  # e_0 = s_1 gives e_1 = s_1
    previous, blocks = start, []
    for block in torch.split(packed, _EMA_BLOCK, dim=1):
        i = torch.arange(block.shape[1], dtype=torch.float64, device=packed.device)
        lag = i[None, :] - i[:, None]  # lag[j, i] = i - j
        weights = torch.where(lag >= 0, spec.alpha * keep ** lag.clamp(min=0), 0.0)
        ema = block @ weights + previous * keep ** (i + 1)
        blocks.append(ema)
        previous = ema[:, -1:]
    ema = torch.cat(blocks, dim=1)
    newest = torch.cat([start, ema], dim=1).gather(1, n_new)
    return _running_max(state, ema), newest.where(n_new > 0, state[:, _EXTRA : _EXTRA + 1])


def _rolling_mean_max(spec: FoldSpec, state: Tensor, packed: Tensor, n_new: Tensor) -> tuple[Tensor, Tensor]:
    tail = spec.window - 1  # the state keeps the newest window - 1 scores, right-aligned
    count = state[:, _COUNT : _COUNT + 1]
    line = torch.cat([state[:, _EXTRA:], packed], dim=1)
    steps = torch.arange(1, packed.shape[1] + 1, dtype=torch.float64, device=packed.device)
    sums = line.unfold(1, spec.window, 1).sum(2)
    means = sums / (count + steps).clamp(max=spec.window)
    keep = n_new + torch.arange(tail, device=packed.device)[None]
    return _running_max(state, means), line.gather(1, keep)


_FOLDS = {
    FoldKind.LAST: _last,
    FoldKind.MEAN: _mean,
    FoldKind.MAX: _max,
    FoldKind.EMA_MAX: _ema_max,
    FoldKind.ROLLING_MEAN_MAX: _rolling_mean_max,
}
