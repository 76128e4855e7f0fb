"""What the readers of the four formats share: their result, and how they refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from perilune.errors import MediaError, MediaFault

# Programs and pages that hide in what a picture's format leaves free. Matched in comments and other
# metadata, never in compressed pixels.
_ACTIVE = re.compile(rb"(?i)<script|<\?php|<!doctype|<html|<svg|<iframe|javascript:")
_FOREIGN = (
    b"PK\x03\x04", b"PK\x05\x06", b"%PDF-", b"Rar!", b"7z\xbc\xaf", b"\x7fELF", b"MZ", b"#!",
    b"\xca\xfe\xba\xbe", b"\x1f\x8b", b"<",
)  # fmt: skip
_PADDING = b"\0\t\n\r "


@dataclass(frozen=True, slots=True)
class Header:
    """A picture's header. `width` and `height` are those of the stored pixels, not yet turned."""

    format: str  # "png", "jpeg", "gif", "webp"
    width: int
    height: int
    orientation: int  # of EXIF, 1 to 8
    pixels: bytes  # a file of the same format without the metadata
    largest: tuple[int, int] = (1, 1)  # how far any frame of an animation reaches
    most_pixels: int | None = None  # that bytes so few can hold


class Pieces:
    """Ranges of a file that are kept, neighbours joined."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ranges: list[tuple[int, int]] = []

    def keep(self, start: int, end: int) -> None:
        if self._ranges and self._ranges[-1][1] == start:
            self._ranges[-1] = (self._ranges[-1][0], end)
        else:
            self._ranges.append((start, end))

    def joined(self, *, end: bytes = b"") -> bytes:
        if self._ranges == [(0, len(self._data))] and not end:
            return self._data
        view = memoryview(self._data)
        return b"".join([*(view[a:b] for a, b in self._ranges), end])


def check_metadata(text: bytes | memoryview, name: str) -> None:
    """Raises MediaError where a comment or the like holds a page or a program."""
    if _ACTIVE.search(text):
        polyglot(f"the {name} has a script or a page in its metadata")


def check_after(data: bytes, end: int, name: str, *, strict: bool = True) -> None:
    """Raises MediaError for another file behind the picture's end; padding is none.

    `strict` refuses everything else too. JPEG is not strict: cameras put a second picture, depth
    or a short clip there.
    """
    rest = data[end : end + 65_536].lstrip(_PADDING) if end < len(data) else b""
    if not rest:
        if end + 65_536 < len(data) and data[end:].strip(_PADDING):
            polyglot(f"the {name} has other data behind its end")
        return
    # A zip is found from its end: its directory may stand anywhere in the last 64 KiB.
    zipped = b"PK\x05\x06" in data[max(end, len(data) - 65_600) :]
    if strict or zipped or rest.startswith(_FOREIGN) or _ACTIVE.search(rest):
        polyglot(f"the {name} has other data behind its end")


def polyglot(what: str) -> NoReturn:
    raise MediaError(
        MediaFault.POLYGLOT, what, remedy="Save the picture again with a picture editor"
    )


def truncated(name: str) -> NoReturn:
    raise MediaError(MediaFault.TRUNCATED, f"the {name} is cut off", remedy="Send the whole file")


def damaged(what: str) -> NoReturn:
    raise MediaError(
        MediaFault.DAMAGED, what, remedy="Save the picture again with a picture editor"
    )


def unsupported(what: str) -> NoReturn:
    raise MediaError(MediaFault.FORMAT, what, remedy="Send PNG, baseline JPEG, WebP or GIF")
