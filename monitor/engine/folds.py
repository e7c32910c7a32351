"""The fold states of all open requests on the host, with a fast path for decode.

:mod:`probes.fold` defines the folds and folds the chunks of a prefill; a decode step, one token for each of
many requests, goes through :mod:`monitor.engine.recurrence`. Both go on from the same state, in any order.

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monitor.engine.recurrence import COUNT, FOLDED, FRESH, Recurrence
from probes.errors import ShapeError
from probes.fold import init_state, update
from probes.types import FoldKind, FoldSpec


class Folds:
    """Fold states of all open requests: one row (request slot) and one state per probe.

    Scores and queries are finite, or NaN where a token is unscored, out of scope or not wanted; such a token
    leaves the state of its request and probe as it was.

    Attributes:
        capacity: how many request slots there are. A slot is opened before it is advanced.
    """

    def __init__(self, specs: Sequence[FoldSpec], capacity: int) -> None:
        self.capacity = 0
        # Inside, the attention probes stand first and the rolling ones last, so that both are slices.
        rank = {FoldKind.ATTENTION: 0, FoldKind.ROLLING_MEAN_MAX: 2}
        order = sorted(range(len(specs)), key=lambda i: rank.get(specs[i].kind, 1))
        self._order, self._callers = np.array(order, dtype=np.int64), np.argsort(order)
        self._specs = [specs[i] for i in order]
        kinds = [spec.kind for spec in self._specs]
        self._attention = slice(0, kinds.count(FoldKind.ATTENTION))
        self._rolling = slice(len(specs) - kinds.count(FoldKind.ROLLING_MEAN_MAX), len(specs))
        self._recurrence = Recurrence(self._specs)
        self._min_tokens = np.array([spec.min_tokens for spec in self._specs], dtype=np.float64)
        self._windows = np.array([spec.window for spec in self._specs[self._rolling]], dtype=np.float64)
        longest = int(self._windows.max(initial=1))
        self._in_window = (np.arange(longest) >= longest - self._windows[:, None]).astype(np.float64)
        self._state = np.empty((len(FRESH), 0, len(specs)))
        self._recent = np.empty((0, len(self._windows), longest))  # scores of the rolling probes, the newest last
        self._add_slots(capacity)

    def grow(self) -> None:
        """Double the capacity; every state stays in its slot."""
        self._add_slots(self.capacity)

    def open(self, slot: int) -> None:
        """Start afresh in this slot."""
        self._state[:, slot] = FRESH[:, None]
        self._recent[slot] = 0.0

    def advance(
        self, slots: NDArray[np.int64], scores: NDArray[np.float32], queries: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Fold one token of each of n requests.

        Args:
            slots: ``(n,)``, request slots, each at most once.
            scores: ``(n, n_probes)``, logits or NaN.
            queries: ``(n, n_probes)``, read in the columns of attention probes; may be None if there are none.

        Returns:
            The folded scores after the token, ``(n, n_probes)``, NaN while fewer than ``min_tokens`` were scored.

        Raises:
            ShapeError: scores or queries are not ``(n, n_probes)``, or queries are missing; no state has changed.
        """
        asked = self._check(len(slots), scores, queries)
        before = self._state.take(slots, axis=1)
        ordered = scores.take(self._order, axis=1)
        scored = ~np.isnan(ordered)
        if asked is not None:
            scored[:, self._attention] &= ~np.isnan(asked)
        if not scored.any():
            return self._visible(before)
        numbers = np.zeros(scored.shape)
        np.copyto(numbers, ordered, where=scored)
        targets, recent = self._recurrence.targets(before, numbers), None
        if scored[:, self._rolling].any():
            targets[:, self._rolling], recent = self._roll(slots, numbers, before[COUNT], scored)
        log_weights = self._recurrence.log_weights(numbers)
        if asked is not None:
            np.copyto(log_weights[:, self._attention], asked, where=scored[:, self._attention])
        after = self._recurrence.step(before, targets, log_weights)
        np.copyto(after, before, where=~scored)
        values = self._visible(after)
        self._state[:, slots] = after
        if recent is not None:
            self._recent[slots] = recent
        return values

    def advance_chunk(
        self, slot: int, scores: NDArray[np.float32], queries: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Fold several tokens of one request, by :func:`probes.fold.update`: every probe's or, on an error, none.

        Args:
            slot: its request slot.
            scores: ``(n_tokens, n_probes)``, logits or NaN.
            queries: ``(n_tokens, n_probes)``, read in the columns of attention probes; may be None if there are none.

        Returns:
            The folded scores after each token, ``(n_tokens, n_probes)``, NaN while fewer than ``min_tokens`` were
            scored.

        Raises:
            ShapeError: scores or queries are not ``(n_tokens, n_probes)``, or queries are missing.
        """
        asked = self._check(len(scores), scores, queries)
        ordered = scores.take(self._order, axis=1)
        values = np.tile(self._visible(self._state[:, slot]), (len(scores), 1))
        states: dict[int, Tensor] = {}
        for column in np.flatnonzero(~np.isnan(ordered).all(axis=0)).tolist():
            own_queries = None
            if asked is not None and column < asked.shape[1]:
                own_queries = torch.from_numpy(asked[None, :, column])
            folded, states[column] = update(
                self._specs[column], self._load(slot, column), torch.from_numpy(ordered[None, :, column]), own_queries
            )
            values[:, self._order[column]] = folded[0].numpy()
        for column, state in states.items():
            self._store(slot, column, state)
        return values

    def _add_slots(self, n: int) -> None:
        self._state = np.concatenate([self._state, np.empty((len(FRESH), n, len(self._specs)))], axis=1)
        self._recent = np.concatenate([self._recent, np.empty((n, *self._recent.shape[1:]))])
        self.capacity += n
        for slot in range(self.capacity - n, self.capacity):
            self.open(slot)

    def _check(
        self, n: int, scores: NDArray[np.float32], queries: NDArray[np.float32] | None
    ) -> NDArray[np.float32] | None:
        """The queries of the attention probes, ``(n, n_attention)``, or None if there are no such probes."""
        wanted, n_attention = (n, len(self._specs)), self._attention.stop
        if scores.shape != wanted:
            raise ShapeError(f"scores {scores.shape} came; wanted {wanted}: one row a token, one column a probe.")
        if not n_attention:
            return None
        if queries is None or queries.shape != wanted:
            came = "no queries" if queries is None else f"queries {queries.shape}"
            raise ShapeError(
                f"{came} came; wanted {wanted}, as the scores: {n_attention} of the probes have attention."
            )
        return queries.take(self._order[self._attention], axis=1)

    def _visible(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the caller may see of ``(4, n, n_probes)`` or ``(4, n_probes)``, in the caller's order."""
        values = np.where(state[COUNT] >= self._min_tokens, state[FOLDED], np.nan)
        visible: NDArray[np.float64] = values.take(self._callers, axis=-1)
        return visible

    def _roll(
        self,
        slots: NDArray[np.int64],
        numbers: NDArray[np.float64],
        counts: NDArray[np.float64],
        scored: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of the windows that end with this token, ``(n, n_rolling)``, and the scores to keep for the next."""
        kept = self._recent.take(slots, axis=0)
        moved = np.concatenate([kept[:, :, 1:], numbers[:, self._rolling, None]], axis=2)
        means = (moved * self._in_window).sum(axis=2) / np.minimum(counts[:, self._rolling] + 1.0, self._windows)
        np.copyto(moved, kept, where=~scored[:, self._rolling, None])
        return means, moved

    def _tail(self, slot: int, column: int) -> NDArray[np.float64]:
        """What :mod:`probes.fold` keeps of a rolling fold, as a view: the newest ``window - 1`` scores."""
        line: NDArray[np.float64] = self._recent[slot, column - self._rolling.start]
        return line[len(line) + 1 - self._specs[column].window :]

    def _load(self, slot: int, column: int) -> Tensor:
        """One state as :mod:`probes.fold` writes it, ``(1, state_width)``."""
        spec = self._specs[column]
        count, folded, mean, log_weight = self._state[:, slot, column].tolist()
        extra: list[float] = []
        match spec.kind:
            case _ if count == 0:
                return init_state(spec, 1)
            case FoldKind.EMA_MAX | FoldKind.CUSUM:
                extra = [mean]
            case FoldKind.SOFTMAX | FoldKind.ATTENTION:
                extra = [log_weight]
            case FoldKind.ROLLING_MEAN_MAX:
                extra = self._tail(slot, column).tolist()
        return torch.tensor([[count, folded, *extra]], dtype=torch.float64)

    def _store(self, slot: int, column: int, state: Tensor) -> None:
        """The inverse of :meth:`_load`."""
        count, folded, *extra = state[0].tolist()
        if count == 0:
            return
        mean, log_weight = folded, 0.0
        match self._specs[column].kind:
            case FoldKind.EMA_MAX | FoldKind.CUSUM:
                mean = extra[0]
            case FoldKind.SOFTMAX | FoldKind.ATTENTION:
                log_weight = extra[0]
            case FoldKind.MEAN:
                log_weight = math.log(count)
            case FoldKind.ROLLING_MEAN_MAX:
                self._tail(slot, column)[:] = extra
        self._state[:, slot, column] = count, folded, mean, log_weight
