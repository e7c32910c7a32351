"""The ranks of a data-parallel engine: where each publishes, under which epoch, and when it was last heard.

An engine without data parallelism has one rank, 0. Rank 0 publishes at ``PLUMBLINE_FRAMES``, and says how many there
are.

Runs in: the monitor, one event loop; not thread-safe.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from monitor.frames import Hello


@dataclass(slots=True)
class _Heard:
    hello: Hello
    at: float  # monotonic seconds


class Ranks:
    """What the newest heartbeats say.

    Attributes:
        count: how many ranks the engine has, as rank 0 says; 1 before it was heard.
    """

    def __init__(self) -> None:
        self.count = 1
        self._heard: dict[int, _Heard] = {}

    @property
    def untested(self) -> str:
        """What about the engine no parity test covers, in its own words; empty if all is."""
        return next((heard.hello.untested for heard in self._heard.values() if heard.hello.untested), "")

    def alive(self, timeout: float) -> bool:
        """Whether every rank was heard within the last ``timeout`` seconds."""
        now, heard = time.monotonic(), self._heard
        return all(rank in heard and now - heard[rank].at <= timeout for rank in range(self.count))

    def hello(self, rank: int) -> Hello | None:
        """The newest heartbeat of a rank; None if it was never heard."""
        return self._heard[rank].hello if rank in self._heard else None

    def rank_of(self, epoch: str) -> int | None:
        """The rank that publishes under this epoch; None if none does."""
        return next((rank for rank, heard in self._heard.items() if heard.hello.epoch == epoch), None)

    def greet(self, hello: Hello) -> tuple[int, ...]:
        """Take over a heartbeat of a rank below ``count``, or of rank 0, which may change ``count``.

        Returns:
            Ranks that the engine has no longer.
        """
        self._heard[hello.rank] = _Heard(hello, time.monotonic())
        if hello.rank == 0:
            self.count = max(1, hello.ranks)
        gone = tuple(rank for rank in self._heard if rank >= self.count)
        for rank in gone:
            self.forget(rank)
        return gone

    def forget(self, rank: int) -> None:
        """A rank counts as never heard."""
        self._heard.pop(rank, None)
