"""Which format bytes are of, by their first bytes; what a file is called does not matter."""

from __future__ import annotations

from collections.abc import Callable

from perilune.chat.media.headers.gif import read_gif
from perilune.chat.media.headers.header import Header
from perilune.chat.media.headers.jpeg import read_jpeg
from perilune.chat.media.headers.png import SIGNATURE, read_png
from perilune.chat.media.headers.webp import read_webp
from perilune.errors import MediaError, MediaFault

READERS: dict[str, Callable[[bytes], Header]] = {
    "png": read_png,
    "jpeg": read_jpeg,
    "gif": read_gif,
    "webp": read_webp,
}
# Formats that people do send, by name in the refusal.
_OTHERS = (
    (b"%PDF-", "PDF"), (b"PK\x03\x04", "a zip archive"), (b"BM", "BMP"), (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"), (b"\0\0\x01\0", "an icon"), (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"qoif", "QOI"), (b"\x1f\x8b", "gzip"), (b"OggS", "Ogg"),
    (b"ID3", "MP3"), (b"RIFF", "RIFF"), (b"#EXTM3U", "a playlist"), (b"ffconcat", "a playlist"),
)  # fmt: skip
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def sniff(data: bytes) -> str | None:
    """ "png", "jpeg", "gif" or "webp"; None for everything else."""
    if data.startswith(SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def describe(data: bytes) -> str:
    """What bytes that are not a picture of ours seem to be, for a refusal; "" where nobody
    knows.
    """
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in data[:4096].lower() and start.startswith(b"<"):
        return "SVG, which can hold scripts"
    if start.startswith(b"<"):
        return "a page or XML"
    if data[4:8] == b"ftyp":
        return "AVIF or HEIC" if data[8:12] in _STILL_BRANDS else "a video"
    return next((name for magic, name in _OTHERS if data.startswith(magic)), "")


def read_header(data: bytes) -> Header:
    """The header of a picture. Raises MediaError: an unknown format, or one that is not whole."""
    name = sniff(data)
    if name is None:
        seems = describe(data)
        raise MediaError(
            MediaFault.FORMAT,
            f"the picture is not PNG, JPEG, WebP or GIF{seems and f', but {seems}'}",
            remedy="Convert it to PNG",
        )
    return READERS[name](data)
