"""Take in the scores of a step: score cache, folds, gate, frame, and what must stop.

Runs in: vLLM worker, on the host, after the forward pass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitor.engine.follow import Followers
from monitor.engine.gate import Gate
from monitor.engine.ledger import Ledger, StepRows
from monitor.engine.lines import Lines
from monitor.engine.publish import FramePublisher
from monitor.engine.report import step_columns
from monitor.engine.request import FollowedRequest
from monitor.engine.score_cache import FOREIGN, ScoreCache
from monitor.engine.stops import Stop

Ints = NDArray[np.int64]
Scores = NDArray[np.float32]


class Intake:
    """What happens to scores once they are on the host.

    Attributes:
        refused: vLLM's ids, by slot, of requests that could not be followed; they are ended.
        stale: why no score can be trusted any more (the weights changed), or None.
    """

    def __init__(
        self, followers: Followers, gate: Gate, ledger: Ledger, lines: Lines, cache: ScoreCache | None,
        publisher: FramePublisher | None, n_columns: int,
    ) -> None:  # fmt: skip
        self._followers, self._gate, self._ledger, self._lines = followers, gate, ledger, lines
        self._cache, self._publisher, self._n_columns = cache, publisher, n_columns
        self.refused: dict[int, str] = {}
        self.stale: str | None = None

    def take(self, rows: StepRows, scores: Scores) -> dict[str, Stop]:
        """Keep, fold and tell the scores ``(n_tokens, n_columns)`` of one step; returns what to stop, by vLLM's id."""
        if self._cache is not None and rows.copies:
            self._cache.copy_blocks(rows.copies)
        tokens = rows.tokens
        if (foreign := self._foreign(rows)) is not None:
            scores[foreign], tokens = np.nan, np.where(foreign, FOREIGN, tokens)
        if self.stale is not None:
            scores[:] = np.nan
        if self._cache is not None:
            self._cache.scatter(rows.kv_slots, scores, rows.row_positions, tokens)
        else:
            np.copyto(scores, np.nan, where=~np.isfinite(scores))
        before = self._gate.position[rows.slots]
        kept = self._fold_late(rows, before) if (rows.positions > before).any() else {}
        tripped = self._fold(rows.row_slots, rows.row_positions, scores)
        which, numbers, folded = self._gate.told(rows.slots, before, scores.itemsize * scores.shape[1])
        stops = self.stops(rows)
        for request in tripped:
            request.changed()
            self._lines.changed(request)
        if self._publisher is not None and len(which):
            requests = [self._followers.by_slot[slot] for slot in rows.slots[which].tolist()]
            if not kept and len(which) == rows.n_tokens:  # one new row for each request: the matrix is the frame
                data = scores.tobytes()
            else:
                new = zip(which.tolist(), (numbers[:, 2] - numbers[:, 0]).tolist(), strict=True)
                data = b"".join([self._fresh(rows, scores, i, n_new, kept) for i, n_new in new])
            self._publisher.publish(*step_columns(requests, numbers, folded, data))
        return stops

    def _fold_late(self, rows: StepRows, before: Ints) -> dict[int, Scores]:
        """Fold what the prefix cache provided before the step's own rows; the scores by index of the request."""
        late = np.flatnonzero(self._gate.followed[rows.slots] & (rows.positions > before))
        return {i: self._fold_kept(int(rows.slots[i]), int(before[i]), int(rows.positions[i])) for i in late.tolist()}

    def stops(self, rows: StepRows) -> dict[str, Stop]:
        """Every request of the step that a rule has ended, in this step or before, or that cannot be followed."""
        ending, refused = self._followers.ending, self.refused
        if not ending and not refused:
            return {}
        stops = {}
        for slot in rows.slots.tolist():
            if slot in refused:
                stops[refused[slot]] = Stop(None, "the engine could not follow this request")
            elif slot in ending:
                request = self._followers.by_slot[slot]
                stops[request.engine_id] = Stop(request.stopped, request.failed)
        return stops

    def _fold(self, slots: Ints, positions: Ints, scores: Scores) -> list[FollowedRequest]:
        tripped = self._gate.fold(slots, positions, scores, self._followers.by_slot, self._ledger.scheduled)
        self._followers.ending.update([r.slot for r in tripped if r.stopped is not None])
        return tripped

    def _fold_kept(self, slot: int, first: int, stop: int) -> Scores:
        """Fold the positions ``[first, stop)`` that the prefix cache provided; returns their scores, NaN if missing."""
        positions = np.arange(first, stop)
        if self._cache is None or self.stale is not None:
            kept = np.full((stop - first, self._n_columns), np.nan, dtype=np.float32)
        else:
            tokens = self._ledger.prompt(slot, first, stop)
            kept = self._cache.gather(self._ledger.kv_slots(slot, positions), positions, tokens)
        request = self._followers.by_slot[slot]
        request.cache_misses += int(np.isnan(kept).any(1).sum())
        request.changed()
        for tripped in self._fold(np.full(stop - first, slot), positions, kept):
            tripped.changed()
            self._lines.changed(tripped)
        return kept

    @staticmethod
    def _fresh(rows: StepRows, scores: Scores, i: int, n_new: int, kept: dict[int, Scores]) -> bytes:
        """The new scores of the i-th request: those from the cache, then its last rows."""
        before = kept.get(i)
        n_own = n_new - (0 if before is None else len(before))
        own = scores[rows.starts[i + 1] - n_own : rows.starts[i + 1]]
        return (own if before is None else np.concatenate([before, own])).tobytes()

    def _foreign(self, rows: StepRows) -> NDArray[np.bool_] | None:
        """``(n_tokens,)``, the rows that an adapter may have changed; None if it is none.

        Its own; and, where it spreads, those of a step that it shared, and those that read keys and values of either.
        """
        followers, slots = self._followers, rows.slots.tolist()
        if followers.spreads and not followers.adapted.isdisjoint(slots):
            followers.unscored.update(slots)
        elif followers.spreads and self._cache is not None:
            for slot, position in zip(slots, rows.positions.tolist(), strict=True):
                if self._cache.foreign(self._ledger.kv_slots(slot, np.arange(position))):
                    followers.unscored.add(slot)
        return np.isin(rows.row_slots, list(followers.unscored)) if followers.unscored else None
