"""WebP: a RIFF of chunks; one picture, or the first of an animation (RFC 9649)."""

from __future__ import annotations

import struct

from perilune.chat.media import exif
from perilune.chat.media.headers.header import (
    Header,
    check_after,
    check_metadata,
    damaged,
    truncated,
)

_ANIMATED, _METADATA = 0x02, 0x20 | 0x08 | 0x04  # profile, EXIF, XMP
_MOST_CHUNKS = 10_000
_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM")


def read_webp(data: bytes) -> Header:
    """Raises MediaError for a file that is not whole, or not only a WebP."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        truncated("WebP")
    kept: list[bytes | memoryview] = []
    size: tuple[int, int] | None = None
    turned, position, chunks = 1, 12, 0
    has_pixels = has_frame = False
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        body, after = position + 8, position + 8 + length + (length & 1)
        if body + length > end:
            truncated("WebP")
        chunks += 1
        if chunks > _MOST_CHUNKS:
            damaged(f"the WebP has more than {_MOST_CHUNKS:,} chunks")
        whole = memoryview(data)[position : min(after, end)]
        if kind == b"VP8X":
            if size is not None or length < 10:
                damaged("the WebP has a header where none can be")
            size = _canvas(data, body)
            flags = data[body] & ~_METADATA
            kept += [bytes(whole[:8]), bytes([flags]), whole[9:]]
        elif kind in _PIXELS:
            if kind in (b"VP8 ", b"VP8L"):
                if has_pixels:
                    damaged("the WebP has two pictures")
                has_pixels = True
                size = size or _picture(data, kind, body, length)
            kept.append(whole)
        elif kind == b"ANMF":
            _check_frame(data, body, length, size)
            if not has_frame:
                has_frame = True
                kept.append(whole)
        elif kind == b"EXIF":
            turned = exif.orientation(data[body : body + length])
        else:
            check_metadata(whole, "WebP")
        position = after
    if size is None or not (has_pixels or has_frame):
        damaged("the WebP has no pixels")
    check_after(data, end + (end & 1), "WebP")
    pixels = b"".join(kept)
    file = b"RIFF" + struct.pack("<I", 4 + len(pixels)) + b"WEBP" + pixels
    return Header("webp", *size, turned, file)


def _canvas(data: bytes, body: int) -> tuple[int, int]:
    width = int.from_bytes(data[body + 4 : body + 7], "little") + 1
    height = int.from_bytes(data[body + 7 : body + 10], "little") + 1
    return width, height


def _check_frame(data: bytes, body: int, length: int, size: tuple[int, int] | None) -> None:
    """Raises MediaError for a frame of an animation that leaves the picture."""
    if size is None or length < 16:
        damaged("the WebP has a frame where none can be")
    left, top, across, down = (
        int.from_bytes(data[body + n : body + n + 3], "little") for n in (0, 3, 6, 9)
    )
    if 2 * left + across + 1 > size[0] or 2 * top + down + 1 > size[1]:
        damaged("the WebP has a frame that is not inside its picture")


def _picture(data: bytes, kind: bytes, body: int, length: int) -> tuple[int, int]:
    if kind == b"VP8L":
        if length < 5 or data[body] != 0x2F:
            damaged("the WebP has a header that is none")
        (bits,) = struct.unpack_from("<I", data, body + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if length < 10 or data[body + 3 : body + 6] != b"\x9d\x01\x2a":
        damaged("the WebP has a header that is none")
    width, height = struct.unpack_from("<HH", data, body + 6)
    return width & 0x3FFF, height & 0x3FFF
