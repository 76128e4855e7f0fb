"""RGB pixels -> the patches that the tower reads.

Patches are kept as bytes (0 to 255), a quarter of what floats take; `normalized` is the rest of
the published rule, for a tower that does not fold it into its first product.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from perilune.chat.media.processing import MediaProcessing
from perilune.chat.media.sizes import Fit

Patches = npt.NDArray[np.uint8]
"""[t * h * w, 3, patch, patch] of an item: frame by frame, row by row of the grid; in a patch
colour, row, column. C order."""


def to_patches(frames: Iterable[Image.Image], fit: Fit, processing: MediaProcessing) -> Patches:
    """Resize upright frames (RGB or L) to `fit` and cut them up; what is padded is black.

    Bicubic with Pillow's own arithmetic, widened where it shrinks: the published processor's.
    """
    grid, side = fit.grid, processing.patch_size
    # A row of a patch is one element: copying rows is several times faster than copying bytes.
    row = np.dtype(f"V{side}")
    rows = np.empty((grid.t, grid.h, grid.w, 3, side), row)
    padded = np.zeros((grid.h * side, grid.w * side), np.uint8)  # of one colour, used again
    for frame, out in zip(frames, rows, strict=True):
        small = frame.resize((fit.width, fit.height), Image.Resampling.BICUBIC)
        bands = small.split()
        for colour, band in enumerate(bands):
            padded[: fit.height, : fit.width] = np.asarray(band)
            cut = padded.view(row).reshape(grid.h, side, grid.w)
            out[:, :, colour] = cut.transpose(0, 2, 1)
        out[:, :, len(bands) :] = out[:, :, :1]  # grey is the same three times
    return rows.view(np.uint8).reshape(grid.patches, 3, side, side)


def normalized(patches: Patches, processing: MediaProcessing) -> npt.NDArray[np.float32]:
    """(x / 255 - mean) / std of each colour, float32: `pixel_values` of the published processor."""
    mean, std = (
        np.asarray(values, np.float32).reshape(3, 1, 1)
        for values in (processing.mean, processing.std)
    )
    scaled = patches.astype(np.float32)
    scaled /= np.float32(255)
    scaled -= mean
    scaled *= np.float32(1) / std
    return scaled
