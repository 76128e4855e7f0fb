"""A terminal for tests: a pty, a small shell with job control on it, and what a program left.

with PseudoTerminal() as terminal:
    terminal.start([sys.executable, "-c", ...], cwd=..., env=...)
    terminal.until("ready")
    terminal.type("text\n")
    terminal.wait()
    assert terminal.modes() == terminal.modes_before
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

# A small shell: it runs one program in the foreground, says when it stopped, waits for a
# word, and lets it go on. Without it the program's process group would be orphaned, and no Ctrl-Z
# would stop it.
SHELL = """
import os, signal, sys
said, heard = int(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
signal.signal(signal.SIGHUP, lambda *_: os.kill(child, signal.SIGHUP))
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    for number in (signal.SIGTTOU, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.close(said), os.close(heard)
    os.execv(sys.argv[3], sys.argv[3:])
try:
    os.setpgid(child, child)
except PermissionError:  # it did so itself
    pass
os.write(said, f"{child}\\n".encode())
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.tcsetpgrp(0, os.getpgrp())
        os.write(said, b"stopped\\n")
        os.read(heard, 1)
        os.tcsetpgrp(0, child)
        os.kill(-child, signal.SIGCONT)
    else:
        code = os.waitstatus_to_exitcode(status)
        os.write(said, f"{code}\\n".encode())
        sys.exit(0)
"""
ON_OFF = re.compile(r"\x1b\[\?([0-9;]+)([hl])")


class PseudoTerminal:
    """One terminal with one program on it. The test holds both ends, so the modes outlive it."""

    def __init__(self) -> None:
        self.screen, self.keyboard = pty.openpty()
        self.modes_before = self.modes()
        self.written = ""
        self._seen = 0
        self._said, said = os.pipe()
        heard, self._tell = os.pipe()
        self._inherited = (said, heard)
        self._lines = b""
        self._shell: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *error: Any) -> None:
        for pid in filter(None, (self.pid, self._shell and self._shell.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._shell is not None:
            self._shell.wait()
        for fd in (self.screen, self.keyboard, self._said, self._tell, *self._inherited):
            with contextlib.suppress(OSError):
                os.close(fd)

    def start(self, command: list[str], *, cwd: Path, env: dict[str, str]) -> None:
        """Run a program in the foreground."""
        said, heard = self._inherited

        def take_terminal() -> None:
            import fcntl

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(said), str(heard), *command],
            stdin=self.keyboard, stdout=self.keyboard, stderr=self.keyboard, cwd=cwd, env=env,
            start_new_session=True, preexec_fn=take_terminal, pass_fds=(said, heard),
        )  # fmt: skip
        self.pid = int(self._line(30))

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.keyboard)

    @property
    def echoes(self) -> bool:
        return bool(self.modes()[3] & termios.ECHO)

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def until(self, text: str, seconds: float = 60) -> None:
        """Read the screen up to `text`; what was read for an earlier call is past."""
        end = time.monotonic() + seconds
        while (place := self.written.find(text, self._seen)) < 0:
            assert self._read(end - time.monotonic()), f"no {text!r} in:\n{self.written}"
        self._seen = place + len(text)

    def until_edited(self, seconds: float = 60) -> None:
        """Until a line is edited: the prompt stands, and the terminal does not echo."""
        self.until("› ")
        end = time.monotonic() + seconds
        while self.echoes:
            assert time.monotonic() < end, "the terminal still echoes"
            self._read(0.05)

    def until_stopped(self) -> None:
        assert self._line(30) == "stopped"

    def go_on(self) -> None:
        """`fg`."""
        os.write(self._tell, b"x")

    def hang_up(self) -> None:
        """The terminal is closed; the shell passes its SIGHUP on."""
        os.close(self.screen)
        os.close(self.keyboard)
        self.screen = self.keyboard = -1

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """The exit code, or minus the signal; the rest of the screen is read."""
        code = int(self._line(seconds))
        assert self._shell is not None
        self._shell.wait(10)
        self.pid = 0
        while self._read(0.2):
            pass
        return code

    def typed_ahead(self) -> bytes:
        """What the program did not read."""
        modes = self.modes()
        modes[3] &= ~termios.ICANON
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 0, 1
        termios.tcsetattr(self.keyboard, termios.TCSANOW, modes)
        return os.read(self.keyboard, 4096)

    def left_on(self) -> set[str]:
        """The private modes that differ from a fresh terminal's, by what was written."""
        modes = {"25": "h"}
        for numbers, state in ON_OFF.findall(self.written):
            modes.update(dict.fromkeys(numbers.split(";"), state))
        usual = {"25": "h"}
        return {n for n, state in modes.items() if state != usual.get(n, "l")}

    def colour_left(self) -> bool:
        codes = re.findall(r"\x1b\[([0-9;]*)m", self.written)
        return bool(codes) and codes[-1] not in ("", "0")

    def _read(self, seconds: float) -> bool:
        if self.screen < 0 or not select.select([self.screen], [], [], max(0.0, seconds))[0]:
            return False
        self.written += os.read(self.screen, 65536).decode("utf-8", "replace")
        return True

    def _line(self, seconds: float) -> str:
        """A line of the shell's; the screen is read meanwhile, or the program would wait."""
        end = time.monotonic() + seconds
        while b"\n" not in self._lines:
            left = max(0.0, end - time.monotonic())
            ends = [end for end in (self._said, self.screen) if end >= 0]
            ready = select.select(ends, [], [], left)[0]
            assert ready, f"the program did not end or stop; its screen:\n{self.written}"
            if self.screen in ready:
                self._read(0)
            if self._said in ready:
                self._lines += os.read(self._said, 4096)
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()
