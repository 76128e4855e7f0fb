"""Files that a stranger might send: name -> (bytes, sent as, the fault that is answered)."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from perilune.chat.media.items import MediaKind
from perilune.errors import MediaFault as F
from tests.chat.media.samples import animated, chunk, clip, picture, saved

SCRIPT = b"<script>alert(document.cookie)</script>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg">' + SCRIPT + b"</svg>"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, pixels: bytes = b"\0" * 64, extra: bytes = b"") -> bytes:
    """A grey PNG that says any size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _SIGNATURE + b"".join(
        [chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(pixels, 9)), chunk(b"IEND", b"")]
    )


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("run.sh", "rm -rf /")
    return out.getvalue()


def with_size(jpeg: bytes, width: int, height: int, precision: int = 8) -> bytes:
    """A JPEG whose header says another size."""
    at = jpeg.index(b"\xff\xc0") + 4
    return jpeg[:at] + struct.pack(">BHH", precision, height, width) + jpeg[at + 5 :]


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def many_scans(count: int) -> bytes:
    jpeg = saved(picture(64, 64), "JPEG", progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * count + jpeg[-2:]


def gif(screen: tuple[int, int], *frames: tuple[int, int]) -> bytes:
    """A GIF with frames of any size, whose pixels are a few bytes."""
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    for width, height in frames:
        out += b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"
    return out + b";"


def webp_canvas(width: int, height: int) -> bytes:
    inner = saved(picture(8, 8), "WEBP", lossless=True)[12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pictures() -> dict[str, tuple[bytes, F]]:
    small = saved(picture(60, 40), "PNG")
    jpeg = saved(picture(60, 40), "JPEG")
    webp = saved(picture(60, 40), "WEBP")
    huge_frame = struct.pack(">IIIIIHHBB", 0, 90_000, 90_000, 0, 0, 1, 10, 0, 0)
    apng = animated("PNG")
    actl = apng[8 + 25 : 8 + 25 + 20]
    return {
        "bomb-50000": (png(50_000, 50_000), F.SIDE),
        "bomb-30000": (png(30_000, 30_000), F.PIXELS),
        "bomb-whole": (png(9000, 9000, b"\0" * 9001 * 9000), F.PIXELS),
        "million-by-one": (png(1_000_000, 1), F.SIDE),
        "one-by-million": (png(1, 1_000_000), F.SIDE),
        "png-zero-width": (png(0, 7), F.ZERO_SIZE),
        "png-zero-height": (png(7, 0), F.ZERO_SIZE),
        "png-cut": (small[: len(small) // 2], F.TRUNCATED),
        "png-signature-alone": (small[:8], F.DAMAGED),
        "png-without-pixels": (small[:33] + small[-12:], F.DAMAGED),
        "png-says-more": (png(6000, 6000), F.DAMAGED),
        "png-says-little-more": (png(60, 60), F.TRUNCATED),
        "png-wrong-crc": (small[:60] + bytes([small[60] ^ 1]) + small[61:], F.DAMAGED),
        "png-long-chunk": (small[:33] + b"\x7f\xff\xff\xffIDAT" + small[41:], F.TRUNCATED),
        "png-huge-frame": (png(8, 8, extra=actl + chunk(b"fcTL", huge_frame)), F.DAMAGED),
        "png-and-zip": (small + archive(), F.POLYGLOT),
        "png-and-page": (small + b"<html>" + SCRIPT, F.POLYGLOT),
        "png-script-in-text": (png(8, 8, extra=chunk(b"tEXt", b"a\0" + SCRIPT)), F.POLYGLOT),
        "jpeg-65000": (with_size(jpeg, 65_000, 65_000), F.SIDE),
        "jpeg-30000": (with_size(jpeg, 30_000, 30_000), F.PIXELS),
        "jpeg-zero-height": (with_size(jpeg, 60, 0), F.ZERO_SIZE),
        "jpeg-12-bit": (with_size(jpeg, 60, 40, 12), F.FORMAT),
        "jpeg-cut": (jpeg[: len(jpeg) - 40], F.TRUNCATED),
        "jpeg-without-end": (jpeg[:-2], F.TRUNCATED),
        "jpeg-start-alone": (jpeg[:3], F.TRUNCATED),
        "jpeg-many-scans": (many_scans(5000), F.WORK),
        "jpeg-and-zip": (jpeg + archive(), F.POLYGLOT),
        "jpeg-script-in-comment": (with_segment(jpeg, 0xFE, SCRIPT), F.POLYGLOT),
        "jpeg-zip-in-comment-at-end": (jpeg + b"\xff\xd8" + archive(), F.POLYGLOT),
        "gif-screen-65535": (gif((65_535, 65_535), (8, 8)), F.SIDE),
        "gif-first-frame-huge": (gif((1, 1), (30_000, 30_000)), F.PIXELS),
        "gif-later-frame-huge": (gif((8, 8), (8, 8), (30_000, 30_000)), F.PIXELS),
        "gif-zero-frame": (gif((8, 8), (0, 8)), F.ZERO_SIZE),
        "gif-without-frame": (gif((8, 8)), F.DAMAGED),
        "gif-cut": (saved(picture(60, 40), "GIF")[:900], F.TRUNCATED),
        "gif-and-script": (b"GIF89a/*" + b"\0" * 20 + b"*/=1;" + SCRIPT, F.DAMAGED),
        "webp-canvas-16384": (webp_canvas(16_384, 16_384), F.PIXELS),
        "webp-canvas-lies": (webp_canvas(4000, 4000), F.DAMAGED),
        "webp-cut": (webp[: len(webp) // 2], F.TRUNCATED),
        "webp-and-zip": (webp + archive(), F.POLYGLOT),
        "svg-with-script": (SVG, F.FORMAT),
        "page": (b"<!doctype html>" + SCRIPT, F.FORMAT),
        "pdf": (b"%PDF-1.7\n" + small, F.FORMAT),
        "zip": (archive(), F.FORMAT),
        "bmp": (saved(picture(9, 9), "BMP"), F.FORMAT),
        "tiff": (saved(picture(9, 9), "TIFF"), F.FORMAT),
        "avif": (b"\0\0\0\x1cftypavif" + b"\0" * 64, F.FORMAT),
        "icon": (b"\0\0\1\0" + b"\0" * 64, F.FORMAT),
        "text": (b"just words", F.FORMAT),
        "nothing": (b"", F.EMPTY),
    }


def clips() -> dict[str, tuple[bytes, F]]:
    """Those that need no PyAV to make; `made_clips` are the others."""
    return {
        "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", F.FORMAT),
        "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", F.FORMAT),
        "picture-as-clip": (saved(picture(9, 9), "PNG"), F.WRONG_TYPE),
        "mp4-header-alone": (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", F.DAMAGED),
        "mp4-zero-box": (b"\0\0\0\x18ftypisom\0\0\0\0isommp41\0\0\0\3moov", F.TRUNCATED),
        "webm-header-alone": (b"\x1a\x45\xdf\xa3\x80", F.DAMAGED),
        "avi-lies": (b"RIFF\xff\xff\xff\x7fAVI LIST", F.TRUNCATED),
        "no-clip": (b"", F.EMPTY),
    }


def made_clips() -> dict[str, tuple[bytes, F]]:
    mp4, webm = clip("two-seconds"), clip("webm-vp9")
    return {
        "mp4-cut": (mp4[: len(mp4) // 2], F.TRUNCATED),
        "webm-cut": (webm[: len(webm) // 2], F.TRUNCATED),
        "sound-alone": (sound(), F.NO_FRAMES),
        "ten-minutes": (slow_clip(), F.SECONDS),
    }


def sound() -> bytes:
    import av
    import numpy as np

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode()]:
            file.mux(packet)
    return out.getvalue()


def slow_clip() -> bytes:
    from fractions import Fraction

    import av
    import numpy as np

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=Fraction(1, 30))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return out.getvalue()


def kind_of(name: str) -> MediaKind:
    return "image" if name in pictures() else "video"
