"""Lines from stdin for async code. Nothing is read that nobody waits for.

On a terminal there is no thread: a byte is read at a time, up to the end of the line, so that what
was typed ahead is still there for whoever reads next, e.g. the shell. While the prompt stands, the
line is edited (`edit`); at all other times the terminal keeps its own modes and its own editing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from contextlib import ExitStack, suppress

from perilune.cli.line_editor import LineEditor
from perilune.cli.terminal_state import TERMINAL, let_go_of_terminal

HISTORY = 500


class Lines:
    """The lines of stdin, one after another. Make it where a loop runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.is_terminal = sys.stdin.isatty()
        self._history: list[str] = []
        self._editor: LineEditor | None = None
        self._modes = ExitStack()
        self._half = b""  # of a line
        self._waiting: asyncio.Future[str | None] | None = None
        if not self.is_terminal:
            self._queue: asyncio.Queue[str | None] = asyncio.Queue()
            threading.Thread(target=self._read_file, daemon=True, name="stdin").start()

    async def next(self) -> str | None:
        """The next line without its end; None after the last one."""
        if self.is_terminal:
            return await self._next_typed()
        line = await self._queue.get()
        if line is None:
            self._queue.put_nowait(None)  # the end stays the end
        return line

    def edit(self, prompt: str) -> None:
        """Show the prompt; the next line is edited, where the terminal can."""
        if self._editor is not None:
            self._editor.draw()
        elif self.is_terminal and _can_edit():
            self._editor = LineEditor(prompt, self._history, _show, _width)
            fd = sys.stdin.fileno()
            self._modes.enter_context(TERMINAL.keystrokes(fd, self._editor.draw))
            self._editor.draw()
            self._editor.feed(self._half)
            self._half = b""
        else:
            _show(prompt)

    def hide(self) -> None:
        """Take the line away, so that something can be printed; `edit` shows it again."""
        if self._editor is not None:
            self._editor.erase()

    def close(self) -> None:
        """Give the terminal its modes back."""
        self._modes.close()
        self._editor = None

    async def _next_typed(self) -> str | None:
        fd = sys.stdin.fileno()
        self._waiting = self._loop.create_future()
        self._loop.add_reader(fd, self._read_key, fd)
        try:
            return await self._waiting
        finally:
            self._loop.remove_reader(fd)
            self.close()

    def _read_key(self, fd: int) -> None:
        assert self._waiting is not None
        if self._waiting.done():
            return
        try:
            key = os.read(fd, 1)
        except BlockingIOError:
            return
        except OSError:
            key = b""
        if not key:
            let_go_of_terminal()  # if it hung up
        if key and self._editor is not None:
            self._editor.feed(key)
            if not self._editor.done:
                return
            line = self._editor.line
            if line and line not in self._history[-1:]:
                self._history = [*self._history, line][-HISTORY:]
            self._waiting.set_result(line)
        elif key and key != b"\n":
            self._half += key
        else:
            half, self._half = self._half, b""
            line = half.decode("utf-8", "replace")
            self._waiting.set_result(line if key or line else None)

    def _read_file(self) -> None:
        while True:
            try:
                text = sys.stdin.readline()
            except (ValueError, OSError):
                text = ""
            line = text.rstrip("\n") if text else None
            try:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
            except RuntimeError:  # the loop is gone, and so is who asked
                return
            if line is None:
                return


def _can_edit() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def _width() -> int:
    return shutil.get_terminal_size().columns


def _show(text: str) -> None:
    """Past the buffer of stdout: Ctrl-Z in the middle of a write of that would lose the redrawn
    line, for a buffer is not entered twice."""
    with suppress(RuntimeError):
        sys.stdout.flush()
    data = text.encode(sys.stdout.encoding or "utf-8", "replace")
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
