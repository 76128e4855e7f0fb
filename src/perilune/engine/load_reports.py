"""Progress of a load as events, few enough for any pipe: `Loading` four times per second at
most.
"""

from __future__ import annotations

from collections.abc import Callable

from perilune.engine.core_messages import Loading
from perilune.weights.progress import Progress

REPORT_SECONDS = 0.25


class LoadReports:
    """A callback for `load_engine`. `tell` is called under the lock of the reader's counter."""

    def __init__(self, tell: Callable[[Loading], None]) -> None:
        self._tell = tell
        self._told = -REPORT_SECONDS

    def __call__(self, progress: Progress) -> None:
        whole = progress.done >= progress.total
        if not whole and progress.seconds - self._told < REPORT_SECONDS:
            return
        self._told = progress.seconds
        # What comes behind the last byte (quantising, packing, measuring) has no bytes to count.
        phase = "preparing" if whole else "weights"
        self._tell(Loading(phase, progress.done, progress.total, progress.seconds))
