"""GIF: the screen, and the first of its pictures (GIF89a specification)."""

from __future__ import annotations

import struct

from perilune.chat.media.headers.header import (
    Header,
    Pieces,
    check_after,
    check_metadata,
    damaged,
    truncated,
)
from perilune.errors import MediaError, MediaFault

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_CONTROL, _COMMENT, _APPLICATION = 0xF9, 0xFE, 0xFF
_MOST_BLOCKS = 400_000  # 100 MB of full blocks; each costs a step here


def read_gif(data: bytes) -> Header:
    """The screen's size, widened to the first picture. Raises MediaError, see `read_png`."""
    return _Walk(data).read()


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pieces = Pieces(data)
        self.size: tuple[int, int] | None = None  # known once the first picture is
        self.largest = (1, 1)
        self.blocks = 0

    def read(self) -> Header:
        data = self.data
        if len(data) < 13:
            truncated("GIF")
        position = self._colours(13, data[10])
        self.pieces.keep(0, position)
        while True:
            if position >= len(data):
                truncated("GIF")
            start, kind = position, data[position]
            if kind == _TRAILER:
                break
            if kind == _EXTENSION:
                position = self._extension(start)
            elif kind == _IMAGE:
                position = self._image(start)
            else:
                damaged("the GIF has bytes where a block must be")
        if self.size is None:
            damaged("the GIF has no picture")
        check_after(data, position + 1, "GIF")
        pixels = self.pieces.joined(end=bytes([_TRAILER]))
        return Header("gif", *self.size, 1, pixels, self.largest)

    def _colours(self, position: int, flags: int) -> int:
        if flags & 0x80:
            position += 3 << ((flags & 7) + 1)
        if position > len(self.data):
            truncated("GIF")
        return position

    def _extension(self, start: int) -> int:
        if start + 2 > len(self.data):
            truncated("GIF")
        label = self.data[start + 1]
        end = self._blocks(start + 2)
        if label == _CONTROL and self.size is None:
            self.pieces.keep(start, end)
        elif label in (_COMMENT, _APPLICATION):
            check_metadata(memoryview(self.data)[start:end], "GIF")
        return end

    def _image(self, start: int) -> int:
        data = self.data
        if start + 10 > len(data):
            truncated("GIF")
        left, top, width, height, flags = struct.unpack_from("<HHHHB", data, start + 1)
        end = self._blocks(self._colours(start + 10, flags) + 1)
        self.largest = (max(self.largest[0], left + width), max(self.largest[1], top + height))
        if self.size is None:
            if not width or not height:
                raise MediaError(
                    MediaFault.ZERO_SIZE, f"the GIF's picture is {width} x {height} pixels"
                )
            across, down = struct.unpack_from("<HH", data, 6)
            self.size = (max(across, left + width), max(down, top + height))
            self.pieces.keep(start, end)
        return end

    def _blocks(self, position: int) -> int:
        """Where a chain of blocks of up to 255 bytes ends."""
        data = self.data
        while True:
            if position >= len(data):
                truncated("GIF")
            length = data[position]
            position += 1 + length
            if not length:
                return position
            self.blocks += 1
            if self.blocks > _MOST_BLOCKS:
                damaged(f"the GIF has more than {_MOST_BLOCKS:,} blocks")
