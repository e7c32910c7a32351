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
        followed = self._gate.followed[rows.slots]
        if not followed.any():
            return self._stops(rows, followed)
        before = self._gate.position[rows.slots]
        late = np.flatnonzero(followed & (rows.positions > before))
        kept = {i: self._fold_kept(int(rows.slots[i]), int(before[i]), int(rows.positions[i])) for i in late.tolist()}
        tripped = self._fold(rows.row_slots, rows.row_positions, scores)
        after = self._gate.position[rows.slots]
        at = np.flatnonzero(followed & (after > before))
        requests = [self._followers.by_slot[slot] for slot in rows.slots[at].tolist()]
        stops = self._stops(rows, followed)
        for request in tripped:
            request.changed()
            self._lines.changed(request)
        if self._publisher is not None and requests:
            if not kept and len(at) == rows.n_tokens:  # one new row for each request: the matrix is the frame
                data = scores.tobytes()
            else:
                data = b"".join([self._fresh(rows, scores, i, int(after[i] - before[i]), kept) for i in at.tolist()])
            sizes = (after[at] - before[at]) * scores.itemsize * scores.shape[1]
            self._publisher.publish(*step_columns(requests, self._gate, rows.slots[at], before[at], sizes, data))
        return stops

    def _stops(self, rows: StepRows, followed: NDArray[np.bool_]) -> dict[str, Stop]:
        """Every request of the step that a rule has ended, in this step or before, or that cannot be followed."""
        of_step = [self._followers.by_slot[slot] for slot in rows.slots[followed].tolist()]
        stops = {
            r.engine_id: Stop(r.stopped, r.failed) for r in of_step if r.stopped is not None or r.failed is not None
        }
        if self.refused:
            refused = [self.refused[slot] for slot in rows.slots.tolist() if slot in self.refused]
            stops |= {engine_id: Stop(None, "the engine could not follow this request") for engine_id in refused}
        return stops

    def _fold(self, slots: Ints, positions: Ints, scores: Scores) -> list[FollowedRequest]:
        return self._gate.fold(slots, positions, scores, self._followers.by_slot, self._ledger.scheduled)

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
