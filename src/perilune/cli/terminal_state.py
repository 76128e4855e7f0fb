"""The state of the user's terminal: taken here only, and given back whatever ends the program.

Modes are changed only while a line is being edited (`keystrokes`), so that at all other times even
`kill -9` leaves a sane terminal. `given_back` stands around every verb: it puts back what was
taken when the verb returns or raises, when a signal ends it, and while Ctrl-Z has stopped it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

BRACKETED_PASTE, NO_BRACKETED_PASTE = "\x1b[?2004h", "\x1b[?2004l"
RESET = f"\x1b[0m\x1b[?25h{NO_BRACKETED_PASTE}"
"""Plain colours, a visible cursor, pastes as they are."""
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOCAL, SPECIAL = 3, 6  # places in what tcgetattr gives: local modes, special characters

Attributes = list[Any]


class TerminalState:
    """What was taken from the terminal, and the way to give it back. One a process: `TERMINAL`."""

    def __init__(self) -> None:
        self._original: tuple[int, Attributes] | None = None
        self._edited: tuple[int, Attributes, Attributes] | None = None  # fd, before, while editing
        self._redraw: Callable[[], None] | None = None
        self.lost = False  # it hung up, and was let go

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Stands around a verb. Does nothing where no terminal is open."""
        if not any(map(_is_terminal, (0, 1, 2))):
            yield
            return
        self._original, self.lost = _only_terminal(), False
        old = self._handle_signals()
        try:
            yield
        finally:
            self.give_back()
            for number, handler in old.items():
                signal.signal(number, handler)
            self._original = None

    @contextmanager
    def keystrokes(self, fd: int, redraw: Callable[[], None]) -> Iterator[None]:
        """Read key by key, without echo, with bracketed pastes. `redraw` shows the line again."""
        before = termios.tcgetattr(fd)
        wanted = termios.tcgetattr(fd)
        wanted[LOCAL] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        wanted[SPECIAL][termios.VMIN], wanted[SPECIAL][termios.VTIME] = 1, 0
        self._edited, self._redraw = (fd, before, wanted), redraw
        try:
            self._take()
            yield
        finally:
            self._give_back_modes()
            self._edited, self._redraw = None, None

    def give_back(self) -> None:
        """Put everything back as it was. May be called at any time, and more than once."""
        self._give_back_modes()
        if self._original is not None:
            fd, attributes = self._original
            if _in_foreground(fd):
                with suppress(termios.error, OSError):
                    if termios.tcgetattr(fd) != attributes:
                        termios.tcsetattr(fd, termios.TCSANOW, attributes)
        # Nothing else of ours hides the cursor, and a plain verb leaves no codes behind.
        if "rich.live" in sys.modules and os.environ.get("TERM", "dumb") != "dumb":
            for name in {_name(fd) for fd in (1, 2)} - {""}:
                _write(name, RESET)

    def _take(self) -> None:
        assert self._edited is not None
        fd, _, wanted = self._edited
        with suppress(termios.error, OSError):
            # TCSANOW and not setcbreak's TCSAFLUSH, which throws away what was typed ahead.
            termios.tcsetattr(fd, termios.TCSANOW, wanted)
            _write(_name(fd), BRACKETED_PASTE)

    def _give_back_modes(self) -> None:
        if self._edited is None:
            return
        fd, before, _ = self._edited
        if not _in_foreground(fd):
            return  # the shell has taken the terminal, and set it up for itself
        with suppress(termios.error, OSError):
            termios.tcsetattr(fd, termios.TCSANOW, before)
            _write(_name(fd), NO_BRACKETED_PASTE)

    # --- signals ---

    def _handle_signals(self) -> dict[int, Any]:
        """Set our handlers where the default stands; returns what stood there."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        handlers: dict[int, Any] = dict.fromkeys(ENDING_SIGNALS, self._end)
        handlers |= {signal.SIGTSTP: self._stop, signal.SIGCONT: self._go_on}
        old = {}
        for number, handler in handlers.items():
            if signal.getsignal(number) is signal.SIG_DFL:
                old[number] = signal.signal(number, handler)
        return old

    def _end(self, number: int, frame: FrameType | None) -> None:
        """End by the signal itself, so that the shell sees what ended us."""
        self.give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets a sane terminal, and we take ours again when we go on."""
        self.give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when someone says SIGCONT
        signal.signal(signal.SIGTSTP, self._stop)
        self._go_on(number, frame)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        """After SIGCONT; also after a SIGSTOP, which nobody can prepare for."""
        if self._edited is None or not _in_foreground(self._edited[0]):
            return
        self._take()
        if self._redraw is not None:
            with suppress(RuntimeError):  # the signal came in the middle of a write
                self._redraw()


TERMINAL = TerminalState()


def let_go_of_terminal() -> bool:
    """Where a terminal hung up, let writes go nowhere and reads find the end; whether one did,
    now or before."""
    lost = [fd for fd in (0, 1, 2) if _has_hung_up(fd)]
    if lost:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in lost:
            os.dup2(nowhere, fd)
        os.close(nowhere)
        TERMINAL.lost = True
    return TERMINAL.lost


def _has_hung_up(fd: int) -> bool:
    try:
        os.ttyname(fd)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def _only_terminal() -> tuple[int, Attributes] | None:
    """The terminal and its modes, if it is at all three of our ends.

    Where another program stands in the same pipe (`| less`), its modes are not ours to undo.
    """
    names = {_name(fd) for fd in (0, 1, 2)}
    if len(names) != 1 or "" in names:
        return None
    with suppress(termios.error, OSError):
        return 0, termios.tcgetattr(0)
    return None


def _in_foreground(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not our controlling terminal, so nobody stops us
        return True


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _name(fd: int) -> str:
    try:
        return os.ttyname(fd)
    except OSError:
        return ""


def _write(name: str, text: str) -> None:
    """Write to a terminal, but never wait: one that was stopped with Ctrl-S would hold the end."""
    with suppress(OSError):
        fd = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
