"""JPEG: markers, segments and entropy-coded scans (ITU-T T.81)."""

from __future__ import annotations

import re
import struct

from perilune.chat.media import exif
from perilune.chat.media.headers.header import (
    Header,
    Pieces,
    check_after,
    check_metadata,
    damaged,
    truncated,
    unsupported,
)
from perilune.errors import MediaError, MediaFault

MOST_SCANS = 100
"""A progressive picture has about ten. Each one costs a pass over all pixels, however few bytes it
has, so that a small file of many scans would be decoded for hours."""
_MOST_SEGMENTS = 10_000
_EOI, _SOS, _DNL = 0xD9, 0xDA, 0xDC
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; both codings
_APP0, _APP1, _APP14, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
# In a scan FF is followed by 00, a restart marker, or another FF; all else is the next marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def read_jpeg(data: bytes) -> Header:
    """Raises MediaError for a file that is not whole, or not only a JPEG."""
    walk = _Walk(data)
    end = walk.walk()
    if walk.size is None or not walk.scans:
        damaged("the JPEG has no pixels")
    check_after(data, end, "JPEG", strict=False)
    width, height = walk.size
    return Header("jpeg", width, height, walk.turned, walk.pieces.joined())


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pieces = Pieces(data)
        self.pieces.keep(0, 2)
        self.size: tuple[int, int] | None = None
        self.turned = 1
        self.scans = 0

    def walk(self) -> int:
        """Go from marker to marker; where the picture ends."""
        data, position, segments = self.data, 2, 0
        while True:
            start, marker, position = self._marker(position)
            if marker == _EOI:
                self.pieces.keep(start, position)
                return position
            if marker in _STANDALONE:
                damaged("the JPEG has a marker where none can be")
            if position + 2 > len(data):
                truncated("JPEG")
            (length,) = struct.unpack_from(">H", data, position)
            end = position + length
            if length < 2:
                damaged("the JPEG has a segment of nothing")
            if end > len(data):
                truncated("JPEG")
            segments += 1
            if segments > _MOST_SEGMENTS:
                damaged(f"the JPEG has more than {_MOST_SEGMENTS:,} segments")
            if marker == _SOS:
                end = self._scan(end)
            self._segment(marker, start, position + 2, end)
            position = end

    def _marker(self, position: int) -> tuple[int, int, int]:
        """Start of the marker, its code, and where its segment begins."""
        data = self.data
        start = position
        if position < len(data) and data[position] != 0xFF:
            damaged("the JPEG has bytes where a marker must be")
        while position < len(data) and data[position] == 0xFF:
            position += 1
        if position >= len(data):
            truncated("JPEG")
        return start, data[position], position + 1

    def _scan(self, start: int) -> int:
        self.scans += 1
        if self.scans > MOST_SCANS:
            raise MediaError(
                MediaFault.WORK,
                f"the JPEG has more than {MOST_SCANS} scans",
                limit=MOST_SCANS,
                remedy="Save it again as a baseline JPEG",
            )
        if self.size is None:
            damaged("the JPEG has pixels before its header")
        found = _MARKER.search(self.data, start)
        if found is None:
            truncated("JPEG")
        return found.start()

    def _segment(self, marker: int, start: int, body: int, end: int) -> None:
        data = self.data
        if marker in _FRAMES:
            self._frame(marker, body, end)
        elif marker == _DNL:
            unsupported("the JPEG says its height behind its pixels")
        elif _APP0 <= marker <= 0xEF or marker == _COMMENT:
            if marker == _APP1 and data[body : body + 6] == b"Exif\0\0":
                self.turned = exif.orientation(data[body:end])
            check_metadata(memoryview(data)[body:end], "JPEG")
            # JFIF and Adobe say what the colours are; the rest says nothing about pixels.
            if marker not in (_APP0, _APP14):
                return
        self.pieces.keep(start, end)

    def _frame(self, marker: int, body: int, end: int) -> None:
        if self.size is not None:
            damaged("the JPEG has two headers")
        if end - body < 6:
            damaged("the JPEG has a header of the wrong length")
        precision, height, width = struct.unpack_from(">BHH", self.data, body)
        if marker not in _READ_FRAMES or precision != 8:
            unsupported(f"the JPEG is of {precision} bits, or coded without loss")
        self.size = (width, height)
