"""How alike a screenshot and a mock-up are, and where they differ; by scikit-image.

Structural similarity (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004), the mean over all pixels and
the three colours: 1 is the same picture. It hardly sees a plain area of another colour, so the mean
difference of the colours is measured beside it, and the map and the places show both.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from perilune.errors import MediaError, ToolError

SMALLEST, LARGEST = 16, 4096
"""Sides of a mock-up, in pixels."""
MOST_PIXELS = 9_000_000
_COLUMNS, _ROWS = 8, 6
_PLACES = 4


@dataclass(frozen=True, slots=True)
class Comparison:
    """`similarity` from -1 to 1; `colour` is the mean difference of the samples, 0 to 255.
    `difference` is a PNG of the mock-up's size: the mock-up in pale grey, and what differs in
    red. `places` are words on the parts that differ most."""

    similarity: float
    colour: float
    difference: bytes
    places: list[str]


def read_mockup(data: bytes) -> Image.Image:
    """The mock-up's pixels, upright, RGB. Raises `ToolError` for one that is too small or large."""
    from perilune.chat.media.headers import read_header
    from perilune.chat.media.pictures import decode

    try:
        picture = decode(read_header(data)).convert("RGB")
    except MediaError as error:
        raise ToolError(f"the mock-up cannot be read: {error.message}") from None
    width, height = picture.size
    if min(width, height) < SMALLEST or max(width, height) > LARGEST:
        raise ToolError(
            f"the mock-up is {width} x {height} pixels; {SMALLEST} to {LARGEST} a side are compared"
        )
    if width * height > MOST_PIXELS:
        raise ToolError(f"the mock-up has more than {MOST_PIXELS:,} pixels")
    return picture


def compare(mockup: Image.Image, screenshot: Image.Image) -> Comparison:
    """Two pictures of the same size, RGB. Raises `ToolError` without scikit-image."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ToolError(
            "comparing pictures needs scikit-image",
            remedy="The person can run: pip install 'perilune[browser]'.",
        ) from None
    wanted, got = np.asarray(mockup), np.asarray(screenshot)
    similarity, alike = structural_similarity(  # type: ignore[no-untyped-call]
        wanted, got, channel_axis=2, data_range=255, full=True
    )
    structure = (1.0 - alike.mean(axis=2)) * 0.8
    colour = np.abs(wanted.astype(np.float32) - got.astype(np.float32)).mean(axis=2)
    differs = np.clip(np.maximum(structure, colour / 96), 0.0, 1.0).astype(np.float32)
    return Comparison(
        float(similarity), float(colour.mean()), _map(mockup, differs), _places(differs)
    )


def png_of(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def _map(mockup: Image.Image, differs: Any) -> bytes:
    pale = 255 - (255 - np.asarray(mockup.convert("L"), dtype=np.float32)) * 0.25
    strength = np.sqrt(differs)[..., None]
    red = np.array([208, 24, 36], dtype=np.float32)
    mixed = pale[..., None] * (1 - strength) + red * strength
    return png_of(Image.fromarray(mixed.astype(np.uint8)))


def _places(differs: Any) -> list[str]:
    """The worst parts of a coarse grid."""
    height, width = differs.shape
    found = []
    for rows in np.array_split(np.arange(height), min(_ROWS, height)):
        for columns in np.array_split(np.arange(width), min(_COLUMNS, width)):
            part = differs[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            found.append((float(part.mean()), columns, rows))
    found.sort(key=lambda each: -each[0])
    return [
        f"x {columns[0]} to {columns[-1] + 1}, y {rows[0]} to {rows[-1] + 1}"
        for mean, columns, rows in found[:_PLACES]
        if mean > 0.02
    ]
