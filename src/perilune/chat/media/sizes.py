"""How large a picture is for the tower: its size after scaling, its grid of patches, its tokens.

The rule that was published with K2.5 (`navit_resize` of its media processor): scale down, never up,
until the patches fit; then pad right and below to whole tokens. All in double precision, with
truncation, so that every size gives the published count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from perilune.chat.media.processing import MediaProcessing


class Grid(NamedTuple):
    """Patches of one item: `t` frames of `h` rows of `w` patches; h and w are even."""

    t: int
    h: int
    w: int

    @property
    def patches(self) -> int:
        return self.t * self.h * self.w

    @property
    def tokens(self) -> int:
        """Rows that the tower gives: 2 x 2 patches each, all frames pooled into one."""
        return (self.h // 2) * (self.w // 2)


@dataclass(frozen=True, slots=True)
class Fit:
    """A picture is resized to `width` x `height`, then padded to `grid` patches."""

    width: int
    height: int
    grid: Grid


def fit_image(width: int, height: int, processing: MediaProcessing) -> Fit:
    """Size and grid of a picture of `width` x `height` pixels."""
    return _fit(width, height, processing, processing.max_patches, 1)


def fit_frame(width: int, height: int, frames: int, of: int, processing: MediaProcessing) -> Fit:
    """Size and grid of `frames` frames together, in a clip `of` so many sampled frames."""
    limit = processing.max_frame_patches or processing.max_patches
    if processing.max_video_patches is not None:
        limit = max(1, min(limit, round(processing.max_video_patches / of)))
    return _fit(width, height, processing, limit, frames)


def _fit(width: int, height: int, processing: MediaProcessing, limit: int, frames: int) -> Fit:
    patch = processing.patch_size
    longest = processing.max_side_patches * patch
    across, down = max(1, width // patch), max(1, height // patch)
    scale = min(1.0, math.sqrt(limit / (across * down)), longest / width, longest / height)
    new_width = min(max(1, int(width * scale)), longest)
    new_height = min(max(1, int(height * scale)), longest)
    whole = patch * processing.merge_size
    rows, columns = (-(-side // whole) * processing.merge_size for side in (new_height, new_width))
    return Fit(new_width, new_height, Grid(frames, rows, columns))
