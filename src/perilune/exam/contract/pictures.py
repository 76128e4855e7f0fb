"""Pictures for the rules of vision, drawn from a seed, and files that are none."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}


@cache
def draw(width: int = 56, height: int = 56, *, form: str = "png", seed: int = 1) -> bytes:
    """A picture of coloured squares, as a file of one of the four formats."""
    from PIL import Image

    squares = random.Random(seed).randbytes(4 * 4 * 3)  # noqa: S311
    image = Image.frombytes("RGB", (4, 4), squares).resize((width, height), 0)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def part(url: str, **more: Any) -> dict[str, Any]:
    """A picture as a part of a chat message."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def png_of(width: int, height: int, pixels: bytes = b"\0" * 64) -> bytes:
    """A grey PNG whose header says any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    )


def _half() -> str:
    whole = draw(200, 100)
    return data_url(whole[: len(whole) // 2])


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
# id -> (what it is, its URL): pictures that must be refused
BROKEN: dict[str, tuple[str, Callable[[], str]]] = {
    "not-base64": ("a picture that is no base64", lambda: "data:image/png;base64,*** no ***"),
    "empty": ("a picture without a byte", lambda: "data:image/png;base64,"),
    "text": ("text that says it is a PNG", lambda: data_url(b"just words, no picture at all")),
    "svg": ("an SVG, which holds scripts", lambda: data_url(_SVG, "image/svg+xml")),
    "bmp": ("a format that nobody promises", lambda: data_url(b"BM" + b"\0" * 60, "image/bmp")),
    "cut": ("half of a PNG", _half),
    "zero-width": ("a picture of no width", lambda: data_url(png_of(0, 8))),
    "bomb": ("a picture of 50,000 by 50,000 pixels", lambda: data_url(png_of(50_000, 50_000))),
}

# Source: advisories of servers that fetched what a request named (CVE-2025-6242, CVE-2026-24779).
PRIVATE = {
    "loopback": "http://127.0.0.1:9/x.png",
    "number": "http://2130706433:9/x.png",
    "mapped": "http://[::ffff:127.0.0.1]:9/x.png",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "file": "file:///etc/passwd",
    "path": "/etc/passwd",
}
