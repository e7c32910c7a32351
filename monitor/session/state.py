"""One request's frames and positions: what was seen, what was scored, where a rule tripped.

Nothing here decides: it only remembers, and wakes whoever waits. Positions are absolute (prompt and
response in one numbering).

Runs in: the monitor, one event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from monitor.frames import DetectorState, RequestScores
from monitor.policy.plan import GatePlan
from monitor.types import TokenScore


class ChoiceState:
    """One choice's cumulative state.

    Attributes:
        n_prompt: prompt tokens; None before the first frame.
        seen: positions processed. scored: of those, how many have scores.
        solid: leading positions that are all known to be scored.
        cache_misses: of the unscored, those found in the prefix cache without kept scores.
        lost: rows of token scores that went missing with a lost frame.
        stopped: the rule for which the engine ended it. ended: no more frames follow.
        rank: the engine's rank that it runs on; None before the first frame.
    """

    def __init__(self) -> None:
        self.n_prompt: int | None = None
        self.seen = 0
        self.scored = 0
        self.solid = 0
        self.cache_misses = 0
        self.lost = 0
        self.detectors: tuple[DetectorState, ...] = ()
        self.stopped: str | None = None
        self.ended = False
        self.rank: int | None = None
        self._next_row = 0
        self._pieces: list[tuple[int, NDArray[np.float32]]] = []

    def apply(self, part: RequestScores, n_columns: int, *, gapped: bool, keep: bool) -> None:
        """Take over one frame's part; older or repeated parts change nothing.

        Raises:
            FrameError: its score bytes do not fit ``n_columns``.
        """
        rows = part.matrix(n_columns)
        if part.seen < self.seen:
            return
        if part.first > self._next_row and gapped:
            self.lost += part.first - self._next_row
        if part.seen == part.scored:
            self.solid = part.seen
        elif self.seen == self.scored and part.first <= self.solid:
            self.solid = max(self.solid, part.first + _first_unscored(rows))
        self.n_prompt, self.seen, self.scored = part.n_prompt, part.seen, part.scored
        self.cache_misses = part.cache_misses
        self.detectors = part.detectors
        self.stopped = part.stopped or self.stopped
        self.ended = self.ended or part.ended
        self._next_row = max(self._next_row, part.first + len(rows))
        if keep and len(rows):
            self._pieces.append((part.first, rows))

    def trip(self, rules: frozenset[str]) -> int | None:
        """The first position at which one of ``rules`` tripped."""
        trips = (d.trip_position for d in self.detectors if d.rule in rules and d.trip_position is not None)
        return min(trips, default=None)

    def token_scores(self, start: int, end: int, columns: Sequence[str]) -> Iterator[TokenScore]:
        """The kept token scores of positions ``[start, end)``; positions without any are left out."""
        begin = max(0, bisect_right(self._pieces, start, key=lambda piece: piece[0]) - 1)
        for first, rows in islice(self._pieces, begin, None):
            if first >= end:
                return
            for position in range(max(first, start), min(first + len(rows), end)):
                yield token_score(position, rows[position - first], columns)


class Session:
    """One open request.

    Attributes:
        plan: what it runs under. choices: one state for each of ``plan.n``.
        restarted: the engine started anew while the request ran.
        ending_rules: rules that end the request when they trip (stop, replace), if the plan enforces.
    """

    def __init__(self, plan: GatePlan, *, keep_scores: bool) -> None:
        self.plan = plan
        self.digest = plan.digest
        self.choices = tuple(ChoiceState() for _ in range(plan.n))
        self.keep_scores = keep_scores
        self.restarted = False
        self.gapped = False
        self.ending_rules = frozenset(d.rule for d in plan.detectors if d.action.ends and plan.enforce)
        self._changed = asyncio.Event()

    def may_run_on(self, rank: int) -> bool:
        """Whether any of its choices runs on this rank of the engine, as far as is known."""
        return any(choice.rank in (None, rank) for choice in self.choices)

    def trip(self, choice: int) -> int | None:
        """The position from which nothing may be released, or None."""
        return self.choices[choice].trip(self.ending_rules)

    def wake(self) -> None:
        """Wake the waiter."""
        self._changed.set()

    async def changed(self, seconds: float) -> None:
        """Wait until something changes, at most so many seconds; one waiter at a time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()


def token_score(position: int, row: NDArray[np.float32], columns: Sequence[str]) -> TokenScore:
    """One row, by probe name; None where it is not a number."""
    values = (None if np.isnan(value) else float(value) for value in row)
    return TokenScore(position=position, scores=dict(zip(columns, values, strict=True)))


def _first_unscored(rows: NDArray[np.float32]) -> int:
    """Index of the first row with an unscored column; all of them if there is none."""
    bad = np.isnan(rows).any(axis=1)
    return int(bad.argmax()) if bad.any() else len(rows)
