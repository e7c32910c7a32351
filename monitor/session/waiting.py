"""Waiting for scores, and knowing when waiting is hopeless."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from monitor.session.state import Session
from monitor.types import UnscoredReason

_LOOK_AGAIN = 0.25  # seconds between looks at what sends no signal: liveness and deadlines
_LOOKS = 4


class Overdue:
    """Whether scores are overdue: ``timeout`` seconds after it was first evident that they should be here.

    It also takes several looks, each a turn of the event loop: after a stall of this process the frames that
    wait in the socket are read before anything is given up.
    """

    def __init__(self, timeout: float, evident: Callable[[], bool] = lambda: True) -> None:
        self._timeout = timeout
        self._evident = evident
        self._since: float | None = None
        self._looks = 0

    def __call__(self) -> bool:
        if self._since is None and self._evident():
            self._since = time.monotonic()
        if self._since is None:
            return False
        self._looks += 1
        return self._looks > _LOOKS and time.monotonic() - self._since >= self._timeout

    @property
    def patience(self) -> float:
        """Seconds until the next look is worth while."""
        return min(_LOOK_AGAIN, self._timeout / _LOOKS)


async def wait_scored(
    session: Session, choices: Iterable[int], n_positions: int, alive: Callable[[], bool], overdue: Overdue
) -> UnscoredReason | None:
    """Wait until the first ``n_positions`` of one of ``choices`` went through the taps, or a rule stopped it.

    Returns:
        None if they did (or a rule stopped it before), else why they will not.
    """
    wanted = tuple(choices)
    states = [session.choices[choice] for choice in wanted]
    while True:
        if any(state.seen >= n_positions for state in states):
            return None
        if any(session.trip(choice) is not None for choice in wanted):
            return None
        if session.restarted:
            return UnscoredReason.ENGINE_RESTART
        if all(state.ended for state in states):
            last = max(state.seen for state in states) == n_positions - 1
            return UnscoredReason.FINAL if last else UnscoredReason.FRAME_TIMEOUT
        if not alive():
            return UnscoredReason.TAPS_SILENT
        if overdue():
            return UnscoredReason.FRAME_TIMEOUT
        await session.changed(overdue.patience)
