"""Progress of a load for whoever watches: one line kept up to date on a terminal, else a few lines.

A load of hundreds of gigabytes takes minutes; one that is over in a moment says nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from perilune.engine.core_messages import Loading
from perilune.weights.format_bytes import gigabytes

QUIET_SECONDS = 1.0  # a load shorter than this needs no progress
LINE_SECONDS, LINE_SHARE = 10.0, 0.10  # a plain line after so long, or so much more
CLEAR = "\r\x1b[K"


def as_json(loading: Loading | None) -> dict[str, Any]:
    """The fields of `/health`, and of a line in JSON, while a model is loaded."""
    if loading is None:
        return {"phase": "starting"}
    left = loading.seconds_left
    return {
        "phase": loading.phase,
        "bytes_done": loading.done,
        "bytes_total": loading.total,
        "percent": round(100 * loading.done / max(1, loading.total), 1),
        "bytes_per_second": round(loading.rate),
        "seconds_left": None if left is None else round(left, 1),
    }


def in_words(loading: Loading) -> str:
    """`312.4 GB of 595.0 GB (52%), 2.1 GB/s, 2:14 left`."""
    share = loading.done / max(1, loading.total)
    said = f"{gigabytes(loading.done)} of {gigabytes(loading.total)} ({share:.0%})"
    if loading.phase != "weights":
        return f"{said}, {loading.phase}"
    left = loading.seconds_left
    if left is None:
        return said
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    shown = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{said}, {gigabytes(round(loading.rate))}/s, {shown} left"


class LoadLines:
    """Tells of a load as it goes on. `say` writes a line into the log, with fields for JSON."""

    def __init__(
        self,
        name: str,
        say: Callable[[str, dict[str, Any]], None],
        *,
        plain: bool,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`plain`: never a line that is written over, also on a terminal."""
        self._name, self._say, self._clock = name, say, clock
        self._stream = sys.stderr if stream is None else stream
        self._in_place = not plain and self._stream.isatty() and not os.environ.get("CI")
        self._drawn = False
        self._began: float | None = None
        self._said: tuple[float, float, str] | None = None  # when, at which share, in which phase

    def show(self, loading: Loading | None) -> None:
        """Call it now and then; None: nothing is being loaded (any more)."""
        now = self._clock()
        if loading is None:
            self.close()
            self._began = self._said = None
            return
        self._began = now - loading.seconds if self._began is None else self._began
        if now - self._began < QUIET_SECONDS:
            return
        if self._in_place:
            # Never as wide as the terminal, which would begin a new line.
            text = f"Loading {self._name}: {in_words(loading)}"[: max(20, _columns() - 1)]
            self._stream.write(CLEAR + text)
            self._stream.flush()
            self._drawn = True
        elif self._due(loading, now):
            self._say(f"loading {self._name}: {in_words(loading)}", as_json(loading))

    def _due(self, loading: Loading, now: float) -> bool:
        share = loading.done / max(1, loading.total)
        if self._said is not None:
            when, at, phase = self._said
            late = now - when >= LINE_SECONDS or share - at >= LINE_SHARE
            if not late and phase == loading.phase:
                return False
        self._said = (now, share, loading.phase)
        return True

    def close(self) -> None:
        """Leave a clean line behind."""
        if self._drawn:
            self._stream.write(CLEAR)
            self._stream.flush()
            self._drawn = False


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 80
