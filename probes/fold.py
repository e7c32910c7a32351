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
    softmax            sum of s_i exp(s_i / temperature) / sum of exp(s_i / temperature)
    attention          sum of s_i exp(q_i) / sum of exp(q_i); q_i is the token's query, a second linear column
    cusum              max over i of g_i,  g_0 = 0,  g_i = max(0, g_{i-1} + s_i - drift)

With ``drift`` the mean log-odds of benign tokens, cusum is the test for a change from benign to harmful.
While fewer than ``min_tokens`` tokens were scored the folded score is NaN: unscored, never safe.

State is ``(n, state_width(spec))`` fp64, one row for each (request, detector): the count of scored tokens,
the current folded score, then what the kind needs. A fresh row is zeros.

Source: aggregations as compared by McKenzie et al. 2025 (arXiv:2506.10805; softmax with temperature 5) and
in "Building production-ready probes" (arXiv:2601.11516); cusum: Page 1954, "Continuous inspection schemes";
softmax over a stream: Milakov and Gimelshein 2018 (arXiv:1805.02867).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from probes.errors import ShapeError
from probes.types import FoldKind, FoldSpec

_COUNT, _VALUE, _EXTRA = 0, 1, 2
_EMA_BLOCK = 64


class _Chunk(NamedTuple):
    """One chunk, its scored tokens moved to the front of each row; what stands behind them is finite and unused.

    Attributes:
        scores: ``(n, n_tokens)`` fp64. queries: the same for ``attention``, else None.
        n_new: ``(n, 1)`` int64, scored tokens in each row.
    """

    scores: Tensor
    queries: Tensor | None
    n_new: Tensor


def state_width(spec: FoldSpec) -> int:
    """Numbers of state that one (request, detector) needs."""
    match spec.kind:
        case FoldKind.EMA_MAX | FoldKind.SOFTMAX | FoldKind.ATTENTION | FoldKind.CUSUM:
            return _EXTRA + 1
        case FoldKind.ROLLING_MEAN_MAX:
            return _EXTRA + spec.window - 1
        case _:
            return _EXTRA


def init_state(spec: FoldSpec, n: int, device: torch.device | str = "cpu") -> Tensor:
    """A fresh state: ``(n, state_width(spec))`` fp64 zeros."""
    return torch.zeros(n, state_width(spec), dtype=torch.float64, device=device)


def update(spec: FoldSpec, state: Tensor, scores: Tensor, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fold one chunk into ``state``.

    Runs in: vLLM worker after the forward pass, outside the graph; and offline.

    Args:
        spec: kind and parameters, the same for all rows.
        state: ``(n, state_width(spec))`` fp64, left unchanged.
        scores: ``(n, n_tokens)``, logits; NaN where a token is unscored, out of scope or padding.
        queries: ``(n, n_tokens)``, for ``attention`` only; a token with a NaN query is unscored too.

    Returns:
        The folded score after every token, ``(n, n_tokens)`` fp64, NaN while fewer than
        ``spec.min_tokens`` were scored; and the new state.

    Raises:
        ShapeError: ``state`` and ``scores`` differ in rows, the state is of another fold, or ``queries`` is
            missing, not wanted, or of another shape than ``scores``.
    """
    if state.shape != (scores.shape[0], state_width(spec)):
        raise ShapeError(
            f"state {tuple(state.shape)} does not fit scores {tuple(scores.shape)} under {spec.kind}: "
            f"wanted ({scores.shape[0]}, {state_width(spec)}). Was it made by init_state for this fold?"
        )
    wanted = scores.shape if spec.kind is FoldKind.ATTENTION else None
    if (None if queries is None else queries.shape) != wanted:
        raise ShapeError(
            f"queries {'are missing' if queries is None else tuple(queries.shape)} under {spec.kind}: "
            f"wanted {'none' if wanted is None else tuple(wanted)}. Attention takes one query for every score."
        )
    if scores.shape[1] == 0:
        return scores.new_empty(scores.shape, dtype=torch.float64), state.clone()
    valid = ~torch.isnan(scores)
    if queries is not None:
        valid &= ~torch.isnan(queries)
    seen = valid.cumsum(1)  # scored tokens of this chunk up to and including each position
    order = torch.argsort(~valid, dim=1, stable=True)  # scored tokens first, in order
    chunk = _Chunk(_pack(scores, order), None if queries is None else _pack(queries, order), seen[:, -1:])

    folded, extra = _FOLDS[spec.kind](spec, state, chunk)

    history = torch.cat([state[:, _VALUE:_EXTRA], folded], dim=1)
    values = history.gather(1, seen)
    count = state[:, _COUNT:_VALUE]
    new_state = torch.cat([count + chunk.n_new, history.gather(1, chunk.n_new), extra], dim=1)
    return values.masked_fill(count + seen < spec.min_tokens, torch.nan), new_state


def fold_sequence(spec: FoldSpec, scores: Tensor, queries: Tensor | None = None) -> Tensor:
    """The folded score after every token of one sequence: ``(n_tokens,)`` in, ``(n_tokens,)`` fp64 out."""
    state = init_state(spec, 1, scores.device)
    values, _ = update(spec, state, scores[None], None if queries is None else queries[None])
    return values[0]


def _pack(per_token: Tensor, order: Tensor) -> Tensor:
    return torch.nan_to_num(per_token.to(torch.float64).gather(1, order), nan=0.0)


def _counts(state: Tensor, chunk: _Chunk) -> Tensor:
    """Scored tokens up to and including each token of the chunk: ``(n, n_tokens)``."""
    n_tokens = chunk.scores.shape[1]
    return state[:, _COUNT:_VALUE] + torch.arange(1, n_tokens + 1, dtype=torch.float64, device=state.device)


def _running_max(state: Tensor, values: Tensor) -> Tensor:
    """Maximum so far, including the maximum kept in the state (none on a fresh row)."""
    before = state[:, _VALUE:_EXTRA].masked_fill(state[:, _COUNT:_VALUE] == 0, -torch.inf)
    return torch.maximum(values.cummax(1).values, before)


def _newest(state: Tensor, values: Tensor, chunk: _Chunk) -> Tensor:
    """The last column of the state after the chunk: its value at the newest scored token, or as it was."""
    return torch.cat([state[:, -1:], values], dim=1).gather(1, chunk.n_new)


def _last(_: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    return chunk.scores, state[:, _EXTRA:]


def _mean(_: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    total = state[:, _COUNT:_VALUE] * state[:, _VALUE:_EXTRA] + chunk.scores.cumsum(1)
    return total / _counts(state, chunk), state[:, _EXTRA:]


def _max(_: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    return _running_max(state, chunk.scores), state[:, _EXTRA:]


def _ema_max(spec: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    keep = 1.0 - spec.alpha
    fresh = state[:, _COUNT:_VALUE] == 0
    previous = torch.where(fresh, chunk.scores[:, :1], state[:, _EXTRA:])  # e_0 = s_1 gives e_1 = s_1
    i = torch.arange(min(_EMA_BLOCK, chunk.scores.shape[1]), dtype=torch.float64, device=state.device)
    lag = i[None, :] - i[:, None]  # lag[j, i] = i - j
    weights = torch.where(lag >= 0, spec.alpha * keep ** lag.clamp(min=0), 0.0)
    carried = keep ** (i + 1)
    blocks = []
    for block in torch.split(chunk.scores, _EMA_BLOCK, dim=1):
        width = block.shape[1]
        ema = block @ weights[:width, :width] + previous * carried[:width]
        blocks.append(ema)
        previous = ema[:, -1:]
    ema = torch.cat(blocks, dim=1)
    return _running_max(state, ema), _newest(state, ema, chunk)


def _rolling_mean_max(spec: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    tail = spec.window - 1  # the state keeps the newest window - 1 scores, right-aligned
    line = torch.cat([state[:, _EXTRA:], chunk.scores], dim=1)
    sums = line.unfold(1, spec.window, 1).sum(2)
    means = sums / _counts(state, chunk).clamp(max=spec.window)
    keep = chunk.n_new + torch.arange(tail, device=line.device)[None]
    return _running_max(state, means), line.gather(1, keep)


def _softmax(spec: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    return _weighted_mean(state, chunk, chunk.scores / spec.temperature)


def _attention(_: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    assert chunk.queries is not None
    return _weighted_mean(state, chunk, chunk.queries)


def _weighted_mean(state: Tensor, chunk: _Chunk, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the scores so far, weighted by ``exp(log_weights)``; the state keeps the log of the weights' sum.

    A scan by doubling: after the step of width w, each place holds mean and log weight of the 2w tokens up to
    it, and the state before the chunk stands as place 0. Only differences of log weights are exponentiated, so
    that scores of any size stay finite.
    """
    log_weight = state[:, _EXTRA:].masked_fill(state[:, _COUNT:_VALUE] == 0, -torch.inf)
    weight = torch.cat([log_weight, log_weights], dim=1)
    mean = torch.cat([state[:, _VALUE:_EXTRA], chunk.scores], dim=1)
    width = 1
    while width < mean.shape[1]:
        share = torch.sigmoid(weight[:, width:] - weight[:, :-width])
        mean = torch.cat([mean[:, :width], torch.lerp(mean[:, :-width], mean[:, width:], share)], dim=1)
        weight = torch.cat([weight[:, :width], torch.logaddexp(weight[:, :-width], weight[:, width:])], dim=1)
        width *= 2
    return mean[:, 1:], _newest(state, weight[:, 1:], chunk)


def _cusum(spec: FoldSpec, state: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    """The recursion in closed form: a walk from g_0, less its lowest point below zero so far."""
    walk = state[:, _EXTRA:] + (chunk.scores - spec.drift).cumsum(1)
    raised = walk - walk.cummin(1).values.clamp(max=0)
    return _running_max(state, raised), _newest(state, raised, chunk)


_FOLDS = {
    FoldKind.LAST: _last,
    FoldKind.MEAN: _mean,
    FoldKind.MAX: _max,
    FoldKind.EMA_MAX: _ema_max,
    FoldKind.ROLLING_MEAN_MAX: _rolling_mean_max,
    FoldKind.SOFTMAX: _softmax,
    FoldKind.ATTENTION: _attention,
    FoldKind.CUSUM: _cusum,
}
