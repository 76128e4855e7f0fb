"""The grid of an item, (frames, rows, columns) of patches: checked, and counted without a network.

An item is one picture (one frame), or up to four neighbouring frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from perilune.errors import UsageError
from perilune.vision_config import MERGE, MOST_PATCHES_A_SIDE

Grid = tuple[int, int, int]  # frames, rows, columns; in patches
Grids = Tensor | Sequence[Sequence[int]]  # [S, 3]


def read_grids(grids: Grids, *, most_frames: int = 4) -> list[Grid]:
    """Integer [S, 3] -> tuples (t, h, w). Raises UsageError for a grid that no item can have."""
    listed = grids.tolist() if isinstance(grids, Tensor) else [list(grid) for grid in grids]
    checked: list[Grid] = []
    for grid in listed:
        if len(grid) != 3 or any(int(n) != n for n in grid):
            raise UsageError(f"a grid must be (frames, rows, columns) of patches, not {grid}")
        t, h, w = (int(n) for n in grid)
        if not 1 <= t <= most_frames:
            raise UsageError(
                f"an item has {t} frames; the tower takes 1 to {most_frames}",
                remedy=f"Cut a clip into items of {most_frames} frames",
            )
        if any(n % MERGE or not MERGE <= n <= MOST_PATCHES_A_SIDE for n in (h, w)):
            raise UsageError(
                f"a grid has {h} x {w} patches; both must be even and {MERGE} to "
                f"{MOST_PATCHES_A_SIDE}",
                remedy="Pad the picture to multiples of two patches per side",
            )
        checked.append((t, h, w))
    return checked


def patch_counts(grids: Grids) -> list[int]:
    """Patches of each item, t * h * w: its rows in the tower's input."""
    return [t * h * w for t, h, w in read_grids(grids)]


def token_counts(grids: Grids) -> list[int]:
    """Vectors that the tower and the projector give for each item: h/2 * w/2, whatever t is."""
    return [h // MERGE * (w // MERGE) for _, h, w in read_grids(grids)]
