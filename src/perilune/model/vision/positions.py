"""Where a patch lies: the learnt table resampled, the table of frames, and the rotation.

Shape suffixes: D hidden, G rows of the learnt table, K columns of it, h rows and w columns of an
item's grid, t its frames, P patches of all items, N width of a head, J = N/4 frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perilune.model.vision.grids import Grid

ROPE_BASE = 10_000.0
TIME_BASE = 10_000.0


def resampled(table_GKD: Tensor, h: int, w: int) -> Tensor:
    """The learnt positions of a grid of h x w patches, float32 [h*w, D].

    As `F.interpolate(mode="bicubic", align_corners=False)` of the table as a picture of D channels,
    not antialiased when it shrinks; computed in float32. The kernel is separable, so it is one
    matrix for the rows and one for the columns.
    """
    rows, columns, width = table_GKD.shape
    if (h, w) == (rows, columns):
        return table_GKD.reshape(-1, width).float()
    device = table_GKD.device
    rows_hG = _bicubic(rows, h).to(device)
    columns_wK = _bicubic(columns, w).to(device)
    table = table_GKD.float()
    if h * columns <= w * rows:  # the smaller of the two half-way tables
        half_hKD = (rows_hG @ table.flatten(1)).view(h, columns, width)
        whole = torch.matmul(columns_wK, half_hKD)
    else:
        half_GwD = torch.matmul(columns_wK, table)
        whole = (rows_hG @ half_GwD.flatten(1)).view(h, w, width)
    return whole.reshape(h * w, width)


def _bicubic(old: int, new: int) -> Tensor:
    """The matrix float32 [new, old] that resamples a line of `old` values to `new`."""
    each = torch.eye(old, device="cpu").view(1, old, old, 1)  # line i has a 1 at place i
    lines = F.interpolate(each, size=(new, 1), mode="bicubic", align_corners=False)
    return lines[0, :, :, 0].T.contiguous()


def frame_table(frames: int, width: int) -> Tensor:
    """What is added to the patches of each frame of an item of several, float32 [frames, D].

    Row p: the sines of p * 10000^(-k/(D/2)) for k below D/2, then the cosines. Not stored.
    """
    k = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width
    angles = torch.outer(torch.arange(frames, dtype=torch.float32, device="cpu"), TIME_BASE**-k)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def rotation(grids: Sequence[Grid], head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin of the patches of all items, float32 [P, N/2] on the CPU.

    Pair 2j turns by column * f_j, pair 2j + 1 by row * f_j, f_j = 10000^(-4j/N). Positions are
    those of the item's own grid, the same for each of its frames.
    """
    j = torch.arange(0, head_dim, 4, dtype=torch.float32, device="cpu") / head_dim
    frequencies_J = 1.0 / ROPE_BASE**j
    angles = []
    for t, h, w in grids:
        x_wJ = torch.arange(w, device="cpu")[:, None].float() * frequencies_J
        y_hJ = torch.arange(h, device="cpu")[:, None].float() * frequencies_J
        both = torch.stack(
            (x_wJ[None].expand(h, w, -1), y_hJ[:, None].expand(h, w, -1)), dim=-1
        )  # [h, w, J, 2]
        angles.append(both.reshape(h * w, -1).repeat(t, 1))
    whole = torch.cat(angles)
    return whole.cos(), whole.sin()
