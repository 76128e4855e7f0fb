"""Forty pictures of every mode and format, and twelve clips: seeded, made here, none downloaded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Bytes = Callable[[], bytes]


def colours(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth waves with noise: something for a resampling filter to get wrong."""
    if width * height > 1 << 20:  # a large one repeats a smaller, which takes a tenth of the time
        tile = colours(1000, 700, channels, seed)
        return np.tile(tile, (-(-height // 700), -(-width // 1000), 1))[:height, :width].copy()
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = []
    for _ in range(channels):
        a, b, c = rng.uniform(0.005, 0.4, 3)
        planes.append(127 + 90 * np.sin(a * x + b * y + c * 20))
    waves = np.stack(planes, axis=-1)
    waves += rng.integers(-40, 40, waves.shape[:2])[..., None]
    return waves.clip(0, 255).astype(np.uint8)


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    if mode == "I;16":
        high = colours(width, height, 1, seed)[..., 0].astype(np.uint16)
        return Image.fromarray(high * 256 + 77)
    if mode in ("RGBA", "LA"):
        return Image.fromarray(colours(width, height, len(mode), seed), mode)
    return Image.fromarray(colours(width, height, 3, seed)).convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_exif(orientation: int, kind: str, width: int = 90, height: int = 61) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(width, height, seed=orientation), kind, exif=exif)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(width: int, height: int, colour: int = 2) -> bytes:
    """PNG of 16 bits per sample: grey (0), RGB (2), grey with alpha (4) or RGBA (6)."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    samples = colours(width, height, channels).astype(">u2") * 256 + 200
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def animated(kind: str, **options: Any) -> bytes:
    first, *rest = [picture(70, 50, "RGBA" if kind == "WEBP" else "RGB", s) for s in range(3)]
    return saved(first, kind, save_all=True, append_images=rest, **options)


def see_through_palette() -> bytes:
    image = picture(66, 44, "P")
    alpha = bytes(range(0, 256, 1))
    return saved(image, "PNG", transparency=alpha)


PICTURES: dict[str, Bytes] = {
    "rgb-1x1": lambda: saved(picture(1, 1), "PNG"),
    "rgb-17x64": lambda: saved(picture(17, 64), "PNG"),
    "rgb-28x28": lambda: saved(picture(28, 28), "PNG"),
    "rgb-29x28": lambda: saved(picture(29, 28), "PNG"),
    "rgb-640x480": lambda: saved(picture(640, 480), "PNG"),
    "rgba": lambda: saved(picture(75, 130, "RGBA"), "PNG"),
    "la": lambda: saved(picture(75, 130, "LA"), "PNG"),
    "grey": lambda: saved(picture(100, 60, "L"), "PNG"),
    "one-bit": lambda: saved(picture(100, 60, "1"), "PNG"),
    "palette": lambda: saved(picture(100, 60, "P"), "PNG"),
    "palette-alpha": see_through_palette,
    "palette-index": lambda: saved(picture(66, 44, "P"), "PNG", transparency=3),
    "grey-index": lambda: saved(picture(66, 44, "L"), "PNG", transparency=127),
    "rgb-index": lambda: saved(
        Image.new("RGB", (66, 44), (1, 2, 3)), "PNG", transparency=(1, 2, 3)
    ),
    "grey-16": lambda: saved(picture(80, 81, "I;16"), "PNG"),
    "rgb-16": lambda: deep_png(80, 81, 2),
    "rgba-16": lambda: deep_png(80, 81, 6),
    "apng": lambda: animated("PNG"),
    "jpeg": lambda: saved(picture(321, 123), "JPEG", quality=90),
    "jpeg-grey": lambda: saved(picture(321, 123, "L"), "JPEG"),
    "jpeg-cmyk": lambda: saved(picture(120, 90, "CMYK"), "JPEG", quality=95),
    "jpeg-progressive": lambda: saved(picture(321, 123), "JPEG", progressive=True),
    "jpeg-444": lambda: saved(picture(333, 222), "JPEG", subsampling=0),
    "jpeg-1280x720": lambda: saved(picture(1280, 720), "JPEG", quality=80),
    "exif-2": lambda: with_exif(2, "JPEG"),
    "exif-3": lambda: with_exif(3, "JPEG"),
    "exif-5": lambda: with_exif(5, "JPEG"),
    "exif-6": lambda: with_exif(6, "JPEG", 1500, 2200),
    "exif-8": lambda: with_exif(8, "WEBP"),
    "exif-png": lambda: with_exif(7, "PNG"),
    "webp": lambda: saved(picture(222, 111), "WEBP", quality=85),
    "webp-lossless": lambda: saved(picture(222, 111), "WEBP", lossless=True),
    "webp-alpha": lambda: saved(picture(99, 111, "RGBA"), "WEBP", quality=85),
    "webp-animated": lambda: animated("WEBP"),
    "gif": lambda: saved(picture(140, 97), "GIF"),
    "gif-animated": lambda: animated("GIF", disposal=2),
    "strip-10000x10": lambda: saved(picture(10_000, 10), "PNG"),
    "jpeg-1920x1080": lambda: saved(picture(1920, 1080), "JPEG", quality=90),
    "jpeg-3840x2160": lambda: saved(picture(3840, 2160), "JPEG", quality=75),
    "jpeg-8000x6000": lambda: saved(picture(8000, 6000), "JPEG", quality=60),
}
LARGE = {"jpeg-3840x2160", "jpeg-8000x6000"}

# name: (frames, width, height, frames per second, codec, container)
CLIPS: dict[str, tuple[int, int, int, Any, str, str]] = {
    "one-frame": (1, 64, 48, 30, "libx264", "mp4"),
    "two-seconds": (60, 64, 48, 30, "libx264", "mp4"),
    "hundred-at-25": (100, 96, 64, 25, "libx264", "mp4"),
    "ntsc": (120, 64, 64, "30000/1001", "libx264", "mp4"),
    "slow": (5, 80, 60, 1, "libx264", "matroska"),
    "mov": (33, 176, 144, 10, "libx264", "mov"),
    "webm-vp9": (33, 176, 144, 10, "libvpx-vp9", "webm"),
    "webm-vp8": (33, 176, 144, 10, "libvpx", "webm"),
    "avi": (40, 90, 122, 12, "mpeg4", "avi"),
    "mpeg": (50, 176, 144, 25, "mpeg1video", "mpeg"),
    "flv": (45, 64, 48, 15, "flv", "flv"),
    "large-frames": (9, 1280, 720, 3, "mpeg4", "mp4"),
}


def clip(name: str) -> bytes:
    from fractions import Fraction

    import av

    count, width, height, rate, codec, container = CLIPS[name]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        base = colours(width, height)
        for n in range(count):
            pixels = np.roll(base, 3 * n, axis=1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return out.getvalue()
