"""`cat log | perilune run "explain"`: what is piped in becomes part of the task, and that is said.

Read is only what someone has put there: a pipe, or a file from its beginning. A terminal, a
device, a socket is not; nor is a file that another program has read in part (`while read` loops),
nor a pipe that nobody writes into (as CI and cron leave them), which is given up after a while.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from perilune.errors import UsageError

SHOWN_CHARACTERS = 16_000
"""What of it is put into the task; as of a tool's output."""
MOST_BYTES = 64 << 20
SAYS_SO_AFTER = 1.0
SILENT_SECONDS = 10.0
"""A pipe without one byte for so long has nobody who writes."""
MOST_INVALID = 0.3
KINDS = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image",
    b"%PDF": "a PDF file", b"PK\x03\x04": "a ZIP archive (or .docx, .xlsx)",
    b"\x1f\x8b": "gzip data", b"BZh": "bzip2 data", b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data", b"\x7fELF": "a program (ELF)",
}  # fmt: skip
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Piped:
    """Text from standard input. `notes` say what is not as it came."""

    text: str
    size: int
    notes: tuple[str, ...] = ()

    def added_to(self, task: str, folder: Path | None, *, most: int = SHOWN_CHARACTERS) -> str:
        """The task with this text below it. A longer one than `most` goes whole into `folder`, and
        the task has its head and its tail."""
        shown = self.text
        what = f"standard input ({self.measure})"
        if len(shown) > most:
            where = ""
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                path = folder / "stdin.txt"
                path.write_text(shown, "utf-8")
                where = f"; the whole is in the file {path}"
            shown, left_out = head_and_tail(shown, most)
            what += f", cut: {left_out} characters in the middle are left out{where}"
        fence = "```"
        while fence in shown:
            fence += "`"
        return f"{task}\n\nFrom {what}:\n\n{fence}\n{shown.rstrip()}\n{fence}"

    @property
    def measure(self) -> str:
        """`12 kB, 340 lines`."""
        lines = self.text.count("\n") + (not self.text.endswith("\n") and bool(self.text))
        size = f"{self.size} bytes" if self.size < 1000 else f"{self.size / 1000:.0f} kB"
        return f"{size}, {lines} line{'s' * (lines != 1)}"

    def said(self, most: int = SHOWN_CHARACTERS, *, what: str = "task") -> str:
        """The line for the user."""
        cut = ""
        if len(self.text) > most:
            cut = f" (its head and tail, {most} characters; the whole is in the run's folder)"
        notes = "".join(f"; {note}" for note in self.notes)
        return f"standard input: {self.measure}, added to the {what}{cut}{notes}"


def piped(say: Say) -> Piped | None:
    """What stands in standard input, if someone has put something there; None if not.

    Raises `UsageError` for what is not text.
    """
    data = read_piped(say)
    return decoded(data) if data else None


def decoded(data: bytes) -> Piped:
    """Bytes as text. UTF-8, UTF-16 with its mark; single wrong bytes are replaced, and said."""
    for magic, kind in KINDS.items():
        if data.startswith(magic):
            raise _binary(kind)
    notes = []
    if len(data) >= MOST_BYTES:
        notes.append(f"only its first {MOST_BYTES >> 20} MiB were read")
    codec = next((name for bom, name in BOMS.items() if data.startswith(bom)), "utf-8")
    text = data.decode(codec, "replace").replace("\r\n", "\n")
    if "\0" in text:
        raise _binary("it holds NUL bytes")
    wrong = text.count("\N{REPLACEMENT CHARACTER}")
    if wrong > max(8, MOST_INVALID * len(text)):
        raise _binary("most of it is not UTF-8")
    if wrong:
        notes.append(f"{wrong} bytes that are not UTF-8 were replaced")
    return Piped(text, len(data), tuple(notes))


def read_piped(say: Say) -> bytes | None:
    """The bytes of a pipe or a file; None where there is nothing to read, or nobody who writes."""
    try:
        fd = sys.stdin.fileno()
        status = os.fstat(fd)
    except (AttributeError, ValueError, OSError):  # closed, or none at all
        return None
    if stat.S_ISREG(status.st_mode):
        if os.lseek(fd, 0, os.SEEK_CUR) != 0:
            if status.st_size:
                say(
                    "standard input is a file that another program has read in part, and is not "
                    "added (`-` as the task reads it, `--no-stdin` keeps quiet)"
                )
            return None
        return _read(sys.stdin.buffer)
    if not stat.S_ISFIFO(status.st_mode):
        return None
    return _read_pipe(fd, say)


def read_all() -> str:
    """All of standard input, for `-`. Raises `UsageError` for what is not text."""
    buffer = getattr(sys.stdin, "buffer", None)
    if sys.stdin is None:
        raise UsageError("standard input is closed", remedy="Write the text instead of '-'.")
    if buffer is None:
        return sys.stdin.read()
    return decoded(_read(buffer)).text


def _read(buffer: IO[bytes]) -> bytes:
    return buffer.read(MOST_BYTES)


def _read_pipe(fd: int, say: Say) -> bytes | None:
    """All of a pipe, or its first `MOST_BYTES`."""
    began = time.monotonic()
    parts: list[bytes] = []
    size, told = 0, False
    while size < MOST_BYTES:
        if not select.select([fd], [], [], 0.2)[0]:
            waited = time.monotonic() - began
            if not told and waited > SAYS_SO_AFTER:
                say("reading standard input... (`--no-stdin` or `< /dev/null` goes without)")
                told = True
            if not parts and waited > SILENT_SECONDS:
                say(f"standard input: nothing came in {SILENT_SECONDS:g} s; going on without it")
                return None
            continue
        block = os.read(fd, min(1 << 20, MOST_BYTES - size))
        if not block:
            break
        parts.append(block)
        size += len(block)
    return b"".join(parts)


def is_given() -> bool:
    """Whether something waits in standard input already; for verbs that do not read it."""
    try:
        fd = sys.stdin.fileno()
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return status.st_size > os.lseek(fd, 0, os.SEEK_CUR)
        if not stat.S_ISFIFO(status.st_mode):
            return False
        readable = select.poll()
        readable.register(fd, select.POLLIN)
        return any(event & select.POLLIN for _, event in readable.poll(0))
    except (AttributeError, ValueError, OSError):
        return False


def head_and_tail(text: str, most: int) -> tuple[str, int]:
    """Beginning and end, `most` characters with a mark between, and how many are left out."""
    head = text[: most * 2 // 3]
    tail = text[len(text) - (most - len(head)) :]
    left_out = len(text) - most
    return f"{head}\n\n[... {left_out} characters are left out here ...]\n\n{tail}", left_out


def _binary(why: str) -> UsageError:
    return UsageError(
        f"standard input is not text: {why}",
        remedy="Give the file's path in the task, so that a tool can read it; `--no-stdin` goes "
        "without it.",
    )
