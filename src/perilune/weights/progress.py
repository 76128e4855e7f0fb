"""Progress of long reads and writes: bytes, rate and time left, for a callback or a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load, a conversion or a check has come."""

    done: int  # bytes
    total: int  # bytes
    seconds: float  # since the start

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None until something has been done."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


ProgressCallback = Callable[[Progress], None]


class ByteCounter:
    """Adds up bytes from any thread and tells the callback. A callback's error ends the work."""

    def __init__(self, total: int, callback: ProgressCallback | None, done: int = 0) -> None:
        self._total, self._callback, self._done = total, callback, done
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._callback is not None:
                seconds = time.monotonic() - self._start
                self._callback(Progress(self._done, self._total, seconds))


@contextmanager
def progress_bar(label: str, *, minimum: int = 0) -> Iterator[ProgressCallback | None]:
    """A callback that draws a bar on stderr: bytes, rate, time left.

    None where stderr is not a terminal. Nothing is drawn for fewer than `minimum` bytes in all.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    bar = Bar(*columns, console=Console(stderr=True), transient=False)
    task = bar.add_task(label, total=None)

    def show(progress: Progress) -> None:
        if progress.total >= minimum:
            bar.start()
            bar.update(task, completed=progress.done, total=progress.total)

    try:
        yield show
    finally:
        bar.stop()
