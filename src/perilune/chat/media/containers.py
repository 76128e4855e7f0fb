"""Which container a clip is in, by its first bytes, and how its picture is turned.

The demuxer is always named to FFmpeg, never guessed by it: its guess takes playlists and scripts
too, and those open other files and addresses.
"""

from __future__ import annotations

import struct

_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_TS_PACKET = 188


def sniff_clip(data: bytes) -> str | None:
    """FFmpeg's name of the demuxer; None for bytes that are not a clip."""
    if data[4:8] == b"ftyp":
        return None if data[8:12] in _STILL_BRANDS else "mov"
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") and len(data) > 16:
        return "mov"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if data[:4] == b"RIFF" and data[8:11] == b"AVI":
        return "avi"
    if data.startswith(b"FLV\x01"):
        return "flv"
    if data.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "asf"
    if data.startswith(b"\0\0\x01\xba"):
        return "mpeg"
    if data.startswith(b"\0\0\x01\xb3"):
        return "mpegvideo"
    if len(data) > 3 * _TS_PACKET and all(data[n * _TS_PACKET] == 0x47 for n in range(3)):
        return "mpegts"
    return None


def is_cut(data: bytes, name: str) -> bool:
    """Whether a container that says its own length is shorter than that."""
    if name == "avi":
        return int(struct.unpack_from("<I", data, 4)[0]) + 8 > len(data)
    if name == "matroska":
        header = _element(data, 0)
        segment = header and _element(data, header[1])
        return segment is not None and segment[1] > len(data)
    if name == "mov":
        start = 0
        while start + 8 <= len(data):
            (size,) = struct.unpack_from(">I", data, start)
            if size == 1 and start + 16 <= len(data):
                (size,) = struct.unpack_from(">Q", data, start + 8)
            if size == 0:
                return False
            if size < 8:
                return True
            start += size
        return start != len(data)
    if name == "asf" and len(data) >= 24:
        (start,) = struct.unpack_from("<Q", data, 16)  # of the header; the data follow
        if start + 24 > len(data):
            return True
        (length,) = struct.unpack_from("<Q", data, start + 16)
        return bool(start + length > len(data))
    return name == "mpegts" and len(data) % _TS_PACKET != 0


def _element(data: bytes, start: int) -> tuple[int, int] | None:
    """Body and end of an EBML element (RFC 8794); an unknown length reaches the file's end."""
    values = []
    for mask in (False, True):
        if start >= len(data) or not data[start]:
            return None
        length = 9 - data[start].bit_length()
        if start + length > len(data):
            return None
        value = int.from_bytes(data[start : start + length], "big")
        unknown = mask and value & ((1 << 7 * length) - 1) == (1 << 7 * length) - 1
        values.append(-1 if unknown else value & ((1 << 7 * length) - 1))
        start += length
    return start, len(data) if values[1] < 0 else start + values[1]


def mov_quarter_turns(data: bytes) -> int:
    """Clockwise quarter turns that the first video track of an MP4 asks for; 0 where none is said.

    Phones store upright clips lying, with a matrix in the track's header (ISO/IEC 14496-12). Only
    quarter turns are read. Never raises.
    """
    moov = _box(data, 0, len(data), b"moov")
    position, end = moov or (0, 0)
    while trak := _box(data, position, end, b"trak"):
        position = trak[1]
        mdia = _box(data, *trak, b"mdia")
        handler = mdia and _box(data, *mdia, b"hdlr")
        header = _box(data, *trak, b"tkhd")
        if not handler or not header or data[handler[0] + 8 : handler[0] + 12] != b"vide":
            continue
        start = header[0] + (52 if data[header[0]] == 1 else 40)
        if start + 36 > header[1]:
            return 0
        a, b, _, c, d = struct.unpack_from(">iiiii", data, start)
        one = 1 << 16
        turns = {(one, 0, 0, one): 0, (0, one, -one, 0): 1, (-one, 0, 0, -one): 2}
        return turns.get((a, b, c, d), 3 if (a, b, c, d) == (0, -one, one, 0) else 0)
    return 0


def _box(data: bytes, start: int, end: int, kind: bytes) -> tuple[int, int] | None:
    """Body of the first box of a kind in a range."""
    for _ in range(10_000):
        if start + 8 > end:
            return None
        size, found = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1 and body + 8 <= end:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        elif size == 0:
            size = end - start
        if size < body - start or start + size > end:
            return None
        if found == kind:
            return body, start + size
        start += size
    return None
