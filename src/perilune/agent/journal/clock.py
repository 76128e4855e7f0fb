"""The clock of all times in results: seconds since 1970 that only go forward.

The wall clock says when a process began; from there on its monotonic clock counts, so that a wall
clock that is set meanwhile changes no duration. A journal goes on where its last record was, also
on a machine whose clock is behind (`agent/journal/memory_journal.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

if hasattr(time, "CLOCK_BOOTTIME"):  # goes on while the machine sleeps, unlike `monotonic`

    def _elapsed() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    _elapsed = time.monotonic

_OFFSET = time.time() - _elapsed()


def now() -> float:
    """Seconds since 1970, never less than before in this process."""
    return _OFFSET + _elapsed()


class ForwardClock:
    """A clock that goes on from the latest time it has seen, whatever its source does."""

    def __init__(self, source: Callable[[], float] = now) -> None:
        self._source = source
        self._ahead = 0.0
        self._last = 0.0

    def __call__(self) -> float:
        read = self._source() + self._ahead
        if read < self._last:
            self._ahead += self._last - read
            read = self._last
        self._last = read
        return read

    def saw(self, when: float) -> None:
        """Never give an earlier time than this one from now on."""
        self._last = max(self._last, when)
