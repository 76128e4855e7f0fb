"""One limiter per endpoint: all runs of a process share it, so a 429 slows them all at once.

It bounds the completions in flight. The bound of a server starts low and grows by one with every
success, so it doubles each round, until the first refusal for load. A refusal halves the bound,
once for a whole burst, and holds every request until the server's time is over; what was refused
then goes first. Every few successes raise the bound by one again.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

RECOVER_AFTER = 8
"""Successes in a row that raise the bound by one, after the first refusal."""
START = 8
"""Requests in flight at first, at an endpoint behind a network."""


class Limiter:
    """Bounds requests in flight; use `async with limiter.slot() as sent:` around each request."""

    def __init__(self, most: int = 64, *, start: int | None = None) -> None:
        self.most = most
        self.bound = most if start is None else min(start, most)
        self.in_flight = 0
        self._ramping = start is not None
        self._paused_until = 0.0
        self._successes = 0
        self._cuts = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def slot(self, *, first: bool = False) -> AsyncIterator[int]:
        """Wait for a free slot and for the end of any pause, then hold the slot.

        In order of arrival; `first` is for a request that was refused and comes back. Gives the
        mark that `limited` wants to be told.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(granted)
        else:
            self._waiting.append(granted)
        self._admit()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._leave()
            raise
        try:
            yield self._cuts
        finally:
            self._leave()

    def allow(self, most: int) -> None:
        """Let at least `most` requests be in flight, as soon as the endpoint bears them."""
        if most > self.most:
            if not self._ramping and self.bound == self.most:
                self.bound = most
            self.most = most
            self._admit()

    def limited(self, seconds: float, sent: int | None = None) -> None:
        """The server refused for load: hold new requests for `seconds` and halve the bound.

        `sent` is what the refused request's `slot` gave. Requests that were in flight together are
        refused together; only the first of them halves the bound.
        """
        now = asyncio.get_running_loop().time()
        self._paused_until = max(self._paused_until, now + seconds)
        self._successes = 0
        self._ramping = False
        if sent is None or sent == self._cuts:
            self._cuts += 1
            self.bound = max(1, self.bound // 2)

    def succeeded(self) -> None:
        self._successes += 1
        if (self._ramping or self._successes >= RECOVER_AFTER) and self.bound < self.most:
            self._successes = 0
            self.bound += 1
            self._admit()

    def _leave(self) -> None:
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        """Let in those who may go now; after a pause, by a timer."""
        loop = asyncio.get_running_loop()
        pause = self._paused_until - loop.time()
        if pause > 0:
            if self._waiting and self._timer is None:
                self._timer = loop.call_later(pause, self._after_pause)
            return
        while self._waiting and self.in_flight < self.bound:
            granted = self._waiting.popleft()
            if not granted.done():
                self.in_flight += 1
                granted.set_result(None)

    def _after_pause(self) -> None:
        self._timer = None
        self._admit()


_limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Limiter]] = (
    weakref.WeakKeyDictionary()
)


def limiter_for(endpoint: str) -> Limiter:
    """The limiter of an endpoint in the running event loop."""
    limiters = _limiters.setdefault(asyncio.get_running_loop(), {})
    if endpoint not in limiters:
        behind_network = endpoint.startswith(("http://", "https://"))
        limiters[endpoint] = Limiter(start=START if behind_network else None)
    return limiters[endpoint]
