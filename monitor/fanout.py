"""One producer, many watchers, none of which can slow the producer.

Each watcher has its own bounded queue; when it is full the oldest item is dropped and counted, so that a
slow watcher sees the newest and knows how much it missed.

Runs in: the monitor, one event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Subscription(Generic[T]):
    """One watcher: ``async for item in subscription``, until :meth:`close`; also a context manager.

    Attributes:
        dropped: items that this watcher missed because it was too slow.
    """

    def __init__(self, fanout: Fanout[T], size: int) -> None:
        self._fanout = fanout
        self._size = size
        self._items: deque[T] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; a pending ``async for`` ends once the queue is empty."""
        self._closed = True
        self._fanout.remove(self)
        self._arrived.set()

    def offer(self, item: T) -> bool:
        """Add an item; False if an older one had to be dropped for it."""
        full = len(self._items) >= self._size
        if full:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._arrived.set()
        return not full


class Fanout(Generic[T]):
    """Gives each published item to every current subscription."""

    def __init__(self, on_drop: Callable[[], None] | None = None) -> None:
        self._subscriptions: set[Subscription[T]] = set()
        self._on_drop = on_drop

    def __bool__(self) -> bool:
        """Whether anybody watches; lets producers skip work that nobody would see."""
        return bool(self._subscriptions)

    def subscribe(self, size: int = 1024) -> Subscription[T]:
        """A new subscription that holds at most ``size`` items."""
        subscription = Subscription(self, size)
        self._subscriptions.add(subscription)
        return subscription

    def remove(self, subscription: Subscription[T]) -> None:
        """Forget a subscription."""
        self._subscriptions.discard(subscription)

    def publish(self, item: T) -> None:
        """Give ``item`` to all; never waits."""
        for subscription in tuple(self._subscriptions):
            if not subscription.offer(item) and self._on_drop is not None:
                self._on_drop()

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
