"""Keeps what a process prints: the first and the last bytes in memory, everything in a file.

Without a bound here an endless printer would fill the memory of the supervisor, not its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from perilune.sandbox.limits import human_bytes


class OutputCapture:
    """One stream. `shown` bytes are kept in memory, half from the start, half from the end."""

    def __init__(self, shown: int, folder: Path | None = None) -> None:
        self.size = 0
        self.file: Path | None = None
        self._half = shown // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._folder = folder
        self._spill: BinaryIO | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes in the order in which they were printed."""
        self.size += len(data)
        if self._spill is None and self.size > 2 * self._half:
            descriptor, name = tempfile.mkstemp(prefix="output-", dir=self._folder)
            self.file = Path(name)
            self._spill = os.fdopen(descriptor, "wb")
            self._spill.write(bytes(self._head + self._tail))
        if self._spill is not None:
            self._spill.write(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        del self._tail[: max(0, len(self._tail) - self._half)]

    def close(self) -> None:
        """Finish the file, if there is one."""
        if self._spill is not None:
            self._spill.close()

    def text(self) -> str:
        """What to show: all of it, or the two ends and how much was left out between them."""
        hidden = self.size - len(self._head) - len(self._tail)
        if hidden <= 0:
            return bytes(self._head + self._tail).decode("utf-8", "replace")
        # Cut at line ends where one is near, so that no line is torn.
        head = self._head[: self._head.rfind(b"\n") + 1 or len(self._head)]
        tail = self._tail[self._tail.find(b"\n") + 1 :] or self._tail
        hidden = self.size - len(head) - len(tail)
        return (
            head.decode("utf-8", "replace").rstrip("\n")
            + f"\n[... {human_bytes(hidden)} left out ...]\n"
            + tail.decode("utf-8", "replace")
        )
