"""How a camera was held: the orientation in a picture's EXIF data, and nothing else of it."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT = 3
_MOST_ENTRIES = 512


def orientation(exif: bytes) -> int:
    """1 to 8 as EXIF defines them; 1 (upright) for data that is absent or damaged.

    Never raises: a damaged note about a picture does not damage the picture.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for n in range(min(count, _MOST_ENTRIES)):
        entry = start + 2 + 12 * n
        if entry + 12 > len(tiff):
            return 1
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and values == 1 and 1 <= value <= 8 else 1
    return 1


def is_turned(value: int) -> bool:
    """Whether width and height change places."""
    return value >= 5
