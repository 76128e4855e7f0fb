"""Files of a folder as documents: text, Markdown, HTML and PDF; what cannot be read says why."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perilune.errors import ToolError
from perilune.search.pdf import PdfReader, Unreadable
from perilune.text_file import decode

TEXT = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex", ".csv"})
HTML = frozenset({".html", ".htm", ".xhtml"})
PDF = frozenset({".pdf"})
SUFFIXES = TEXT | HTML | PDF

LARGEST_TEXT = 16 << 20  # bytes
LARGEST_PDF = 256 << 20
_NEVER = frozenset({"node_modules", "__pycache__", "venv"})
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))
_MOST_CONTROLS = 0.02  # of a text's bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may be indexed. `path` is relative to the folder, with slashes."""

    path: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class FileText:
    title: str
    text: str
    sha256: str


Hear = Callable[[str, str], None]
"""Told a path and a few words on it."""


def _nobody(path: str, why: str) -> None:
    pass


def find_files(folder: Path, report: Hear, skipped: Hear = _nobody) -> Iterator[Found]:
    """The readable kinds of files below a folder, in order; no hidden ones, no links.

    `report(path, problem)` hears of folders and files that cannot be looked at,
    `skipped(path, reason)` of all others that are not given. The reasons are few.
    """

    def failed(error: OSError) -> None:
        report(_relative(Path(error.filename or folder), folder), _why(error))

    for place, folders, names in os.walk(folder, onerror=failed):
        for name in sorted(folders):
            if why := _folder_is_left(Path(place, name)):
                skipped(_relative(Path(place, name), folder) + "/", why)
                folders.remove(name)
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if why := _file_is_left(path):
                skipped(_relative(path, folder), why)
                continue
            try:
                status = path.lstat()
            except OSError as error:
                report(_relative(path, folder), _why(error))
                continue
            if stat.S_ISREG(status.st_mode):
                yield Found(_relative(path, folder), status.st_size, status.st_mtime_ns)
            else:
                skipped(_relative(path, folder), "no regular file")


def _folder_is_left(path: Path) -> str:
    """Why a folder is not looked into; "" for one that is."""
    if path.is_symlink():
        return "link to a folder"
    if path.name.startswith("."):
        return "hidden folder"
    return "folder of installed or made files" if path.name in _NEVER else ""


def _file_is_left(path: Path) -> str:
    """Why a file is not read, by its name alone; "" for one that is."""
    if path.is_symlink():
        return "link" if path.exists() else "broken link"
    if path.name.startswith("."):
        return "hidden file"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return ""
    # Names of any length are foreign text; what follows the point is a word or two.
    kind = suffix if 1 < len(suffix) <= 12 and suffix.isprintable() else "no known suffix"
    return f"{kind}: not read, only text, Markdown, HTML and PDF are"


class FileReader:
    """Reads files one after the other. Close it, for it keeps a process that reads PDF."""

    def __init__(self) -> None:
        self._pdf = PdfReader()

    def close(self) -> None:
        self._pdf.close()

    def read(self, folder: Path, found: Found) -> FileText:
        """The text of a file. Raises `Unreadable`."""
        path = folder / found.path
        suffix = path.suffix.lower()
        largest = LARGEST_PDF if suffix in PDF else LARGEST_TEXT
        if found.size > largest:
            raise Unreadable(f"too large: {_megabytes(found.size)}, the limit is "
                             f"{_megabytes(largest)}")  # fmt: skip
        data = _bytes(path, largest)
        digest = hashlib.sha256(data).hexdigest()
        if suffix in PDF:
            title, text = self._pdf.read(data)
        elif suffix in HTML:
            from perilune.search.web.pages import html_text

            _refuse_binary(data)
            try:
                page = html_text(data, path.as_uri() if path.is_absolute() else "")
            except ToolError as error:
                raise Unreadable(error.message) from None
            title, text = page.title, page.text
        else:
            text = _decode(data)
            title = first_heading(text)
        if not text.strip():
            raise Unreadable("no text in it")
        return FileText(title or path.stem, text, digest)


def first_heading(text: str) -> str:
    """The title of a Markdown text, or ""."""
    for line in text.splitlines()[:20]:
        if line.startswith("# "):
            return line[2:].strip()
    return ""


def _bytes(path: Path, largest: int) -> bytes:
    """The whole of a file that stays as it is while it is read; a second try for one that does
    not."""
    for _ in range(2):
        try:
            # Not through a link, and no wait for a pipe, whatever the name means by now.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unreadable("it is gone") from None
        except OSError as error:
            raise Unreadable(_why(error)) from None
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise Unreadable("no regular file")
            try:
                data = file.read(largest + 1)
            except OSError as error:
                raise Unreadable(_why(error)) from None
            after = os.fstat(descriptor)
        if len(data) > largest:
            raise Unreadable(f"too large: more than {_megabytes(largest)}")
        state = (before.st_size, before.st_mtime_ns)
        if state == (after.st_size, after.st_mtime_ns) and len(data) == before.st_size:
            return data
    raise Unreadable("it is being written; add it again when it is done")


def _decode(data: bytes) -> str:
    """UTF-8, UTF-16 with its mark, the likeliest other encoding, or else the Western one."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise Unreadable("binary data, no text") from None
    _refuse_binary(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            return decode(data, "the file").text
        except ToolError:
            return data.decode("cp1252", "replace")


def _refuse_binary(data: bytes) -> None:
    head = data[: 1 << 20]
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if b"\0" in head or controls > _MOST_CONTROLS * len(head):
        raise Unreadable("binary data, no text")


def _relative(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return error.strerror or str(error)


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.0f} MB"
