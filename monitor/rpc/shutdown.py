"""Who a shutdown waits for, and who it does not.

Checks and generations get the grace period. Watchers have no end of their own, so waiting for them would
always use up the whole of it: their subscriptions are closed, they deliver what is queued, and leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monitor.fanout import Subscription


class Shutdown:
    """Counts running calls and holds the watchers' subscriptions.

    Nothing here cancels a handler: grpc.aio cannot end a call whose write was cancelled half-way.

    Attributes:
        begun: whether the shutdown has begun; new calls are then to be refused.
    """

    def __init__(self) -> None:
        self.begun = False
        self._subscriptions: set[Subscription[Any]] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call that a shutdown waits for."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    @contextmanager
    def watcher(self, subscription: Subscription[Any]) -> Iterator[None]:
        """A watcher: its subscription is closed at the end, or when a shutdown begins."""
        self._subscriptions.add(subscription)
        try:
            if self.begun:
                subscription.close()
            yield
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    def begin(self) -> None:
        """Send the watchers home, also those that come later."""
        self.begun = True
        for subscription in self._subscriptions:
            subscription.close()

    async def idle(self, grace: float) -> bool:
        """Wait until no call is left, at most ``grace`` seconds; whether that was so."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
