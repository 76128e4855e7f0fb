"""A picture's bytes -> upright pixels, as they are shown on white paper.

Pillow decodes; only the plugin of the format that the header names is used, on a file without its
metadata (see `headers`).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from perilune.chat.media.headers import Header
from perilune.errors import MediaError, MediaFault

_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "gif": GifImageFile,
    "webp": WebPImageFile,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255)
_STRIP_ROWS = 256


def decode(header: Header) -> Image.Image:
    """The first picture of the file: mode RGB or L (grey), upright, alpha on white.

    Raises MediaError (`truncated`, `damaged`) for pixels that cannot be decoded.
    """
    try:
        image: Image.Image = _PLUGINS[header.format](io.BytesIO(header.pixels))
        if image.size != (header.width, header.height):
            raise _damaged(header, f"its pixels are {image.width} x {image.height}")
        image.load()
        deep = header.format == "png" and header.pixels[24] == 16
        return _turned(to_colours(image, deep=deep), header.orientation)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything; it says nothing to a caller
        if "truncated" in str(error):
            raise MediaError(
                MediaFault.TRUNCATED,
                f"the {_name(header)} is cut off before its last pixels",
                remedy="Send the whole file",
            ) from None
        raise _damaged(header, "its pixels cannot be decoded") from None


def to_colours(image: Image.Image, *, deep: bool = False) -> Image.Image:
    """RGB of any mode that the four formats have; grey stays grey, a quarter of the memory.

    `deep` says that the file has 16 bits per sample: the lower eight are dropped, as Pillow does it
    for colour; for grey it would cut all above 255 to white.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        return _on_white(_high_bytes(image, transparent))
    if deep and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if transparent is not None or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return _on_white(image.convert("RGBA"))
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _high_bytes(image: Image.Image, transparent: object) -> Image.Image:
    """16-bit grey as 8 bits; the value `transparent` is seen through."""
    samples = np.asarray(image)
    grey = Image.fromarray((samples >> 8).clip(0, 255).astype(np.uint8))
    if isinstance(transparent, int):
        seen = Image.fromarray(((samples != transparent) * np.uint8(255)).astype(np.uint8))
        return Image.merge("LA", (grey, seen)).convert("RGBA")
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA over white, strip by strip, so that a large picture is not held three times."""
    if image.mode != "RGBA":
        return image
    result = Image.new("RGB", image.size, _WHITE)
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        strip = image.crop(box)
        white = Image.new("RGBA", strip.size, (*_WHITE, 255))
        result.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return result


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _damaged(header: Header, what: str) -> MediaError:
    return MediaError(
        MediaFault.DAMAGED,
        f"the {_name(header)} says {header.width} x {header.height} pixels, and {what}",
        remedy="Save the picture again with a picture editor",
    )


def _name(header: Header) -> str:
    return {"jpeg": "JPEG", "webp": "WebP"}.get(header.format, header.format.upper())
