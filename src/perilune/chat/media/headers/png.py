"""PNG: signature, chunks of length, type, data and CRC (W3C PNG, third edition)."""

from __future__ import annotations

import struct

from perilune.chat.media import exif
from perilune.chat.media.headers.header import (
    Header,
    Pieces,
    check_after,
    check_metadata,
    damaged,
    truncated,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXT = (b"tEXt", b"iTXt", b"zTXt", b"iCCP")
_MOST_CHUNKS = 100_000
_MOST_RATIO = 1040  # deflate makes at most 1032 bytes of one
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by type of colour


def read_png(data: bytes) -> Header:
    """Raises MediaError for a file that is not whole, or not only a PNG."""
    if data[12:16] != b"IHDR" or data[8:12] != b"\0\0\0\x0d":
        damaged("the PNG does not begin with its header")
    pieces = Pieces(data)
    pieces.keep(0, 8)
    position, turned, chunks = 8, 1, 0
    packed = 0  # bytes of compressed pixels
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            truncated("PNG")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            truncated("PNG")
        chunks += 1
        if chunks > _MOST_CHUNKS:
            damaged(f"the PNG has more than {_MOST_CHUNKS:,} chunks")
        if kind in _PIXELS:
            if kind == b"IHDR" and position != 8:
                damaged("the PNG has two headers")
            packed += length if kind == b"IDAT" else 0
            pieces.keep(position, end)
        elif kind == b"eXIf":
            turned = exif.orientation(data[position + 8 : end - 4])
        elif kind == b"fcTL" and length == 26:
            _check_frame(data, position + 8)
        elif kind in _TEXT:
            check_metadata(memoryview(data)[position + 8 : end - 4], "PNG")
        position = end
    if not packed:
        damaged("the PNG has no pixels")
    check_after(data, position, "PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    room = packed * _MOST_RATIO * 8 // max(1, depth * _SAMPLES.get(colour, 1))
    return Header("png", width, height, turned, pieces.joined(), most_pixels=room)


def _check_frame(data: bytes, body: int) -> None:
    """Raises MediaError for a frame of an animation that leaves the picture."""
    width, height = struct.unpack_from(">II", data, 16)
    across, down, left, top = struct.unpack_from(">IIII", data, body + 4)
    if not (across and down and left + across <= width and top + down <= height):
        damaged("the PNG has a frame that is not inside its picture")
