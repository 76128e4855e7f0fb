"""MoonViT: patches of pictures and short clips -> four vectors a token, for the projector.

Pictures of different sizes are packed one behind the other, without padding; a patch attends to all
patches of its own item (a picture, or up to four frames together) and to no others.

Source: arXiv 2504.07491 (MoonViT), arXiv 2602.02276 (K2.5: frames pooled, time positions).
Attribute names are the checkpoint's. Shape suffixes: S items, P patches of all of them, M tokens of
all of them, D hidden, t, h, w frames, rows and columns of an item.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor, nn

from perilune.errors import UsageError
from perilune.model.init import init_normal
from perilune.model.vision.grids import Grid, Grids, read_grids
from perilune.model.vision.operators import PLAIN, VisionOperators
from perilune.model.vision.positions import frame_table, resampled, rotation
from perilune.vision_config import MERGE, VisionConfig

NORM_EPS = 1e-5  # of every LayerNorm of the tower; no configuration says it


class Positions(nn.Module):
    """`pos_emb`: the learnt table [rows, columns, D] of a square picture."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        shape = config.init_pos_emb_height, config.init_pos_emb_width, config.vt_hidden_size
        self.weight = nn.Parameter(init_normal(torch.empty(shape), std=0.5))
        self.frames = config.init_pos_emb_time

    def forward(self, grids: list[Grid], dtype: torch.dtype) -> Tensor:
        """-> what is added to the patches, [P, D], resampled in float32, then of `dtype`."""
        table_GKD = self.weight
        frames_tD = frame_table(self.frames, table_GKD.shape[-1]).to(table_GKD.device, dtype)
        seen: dict[tuple[int, int], Tensor] = {}
        parts = []
        for t, h, w in grids:
            if (h, w) not in seen:
                seen[h, w] = resampled(table_GKD, h, w).to(dtype)
            place = seen[h, w]
            if t > 1:  # one frame alone is a picture: nothing is added
                place = (place[None] + frames_tD[:t, None]).flatten(0, 1)
            parts.append(place)
        return torch.cat(parts)


class PatchEmbed(nn.Module):
    """`patch_embed`: pixels of a patch -> its vector, with its place."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.proj = nn.Conv2d(3, config.vt_hidden_size, kernel_size=side, stride=side)
        self.pos_emb = Positions(config)

    def forward(self, patches: Tensor, grids: list[Grid], operators: VisionOperators) -> Tensor:
        x_PD = operators.embed(self.proj, patches)
        positions: Tensor = self.pos_emb(grids, x_PD.dtype)
        return x_PD + positions


class VisionMLP(nn.Module):
    """`mlp`: fc1(gelu(fc0(x))), GELU by tanh."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc0 = nn.Linear(config.vt_hidden_size, config.vt_intermediate_size)
        self.fc1 = nn.Linear(config.vt_intermediate_size, config.vt_hidden_size)


class VisionBlock(nn.Module):
    """One of `encoder.blocks`: attention, then feed-forward, each on a normed input, added back."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.vt_hidden_size
        self.num_heads = config.vt_num_attention_heads
        self.norm0 = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.wqkv = nn.Linear(width, 3 * width)
        self.wo = nn.Linear(width, width)
        self.mlp = VisionMLP(config)

    def forward(
        self,
        x_PD: Tensor,
        turn: tuple[Tensor, Tensor],
        counts: list[int],
        operators: VisionOperators,
    ) -> Tensor:
        """-> the same shape; `turn` is the rotation, `counts` the patches of each item."""
        qkv = operators.linear(self.wqkv, operators.norm(self.norm0, x_PD))
        heads_PD = operators.attend(qkv, self.num_heads, turn, counts)
        x_PD = operators.add_linear(self.wo, heads_PD, x_PD)
        return operators.add_mlp(self.norm1, self.mlp, x_PD)


class VisionEncoder(nn.Module):
    """`encoder`: the blocks and the norm behind them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vt_num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.vt_hidden_size, eps=NORM_EPS)


class VisionTower(nn.Module):
    """`vision_tower.`: patches -> the four vectors of each token, [M, 4, D]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.encoder = VisionEncoder(config)

    def forward(self, patches: Tensor, grids: Grids, operators: VisionOperators = PLAIN) -> Tensor:
        """Patches of all items [P, 3*p*p] (or [P, 3, p, p]) and grids [S, 3] -> [M, 4, D].

        Patches lie item by item, in it frame by frame, in a frame row by row (not in blocks of
        2 x 2); the values of one by colour, row, column, normalised to -1..1. uint8 ones are
        pixels and are normalised here. The tokens lie item by item, row by row; their four vectors
        are those at (row, column) (0,0), (0,1), (1,0), (1,1), means over the frames.

        Raises UsageError for a grid that no item can have, and for patches that do not fit.
        """
        walk = self.walk(patches, grids, operators)
        while True:
            try:
                next(walk)
            except StopIteration as end:
                result: Tensor = end.value
                return result

    def walk(
        self, patches: Tensor, grids: Grids, operators: VisionOperators = PLAIN
    ) -> Generator[None, None, Tensor]:
        """`forward`, with a stop behind each block: for who has other things to do in between."""
        checked = read_grids(grids, most_frames=self.config.init_pos_emb_time)
        counts = [t * h * w for t, h, w in checked]
        rows = patches.flatten(1)
        if rows.shape != (sum(counts), self.config.patch_values):
            raise UsageError(
                f"patches of shape {tuple(patches.shape)} for grids of {sum(counts)} patches of "
                f"{self.config.patch_values} values"
            )
        table = self.patch_embed.pos_emb.weight
        if not checked:
            return table.new_empty(0, MERGE * MERGE, self.config.vt_hidden_size)
        if rows.dtype == torch.uint8:
            rows = normalised(rows)
        x_PD: Tensor = self.patch_embed(rows, checked, operators)
        cos, sin = rotation(checked, self.config.head_dim)
        turn = cos.to(table.device), sin.to(table.device)
        for block in self.encoder.blocks:
            x_PD = block(x_PD, turn, counts, operators)
            yield
        x_PD = operators.norm(self.encoder.final_layernorm, x_PD)
        return torch.cat(
            [merged(x, grid) for x, grid in zip(torch.split(x_PD, counts), checked, strict=True)]
        )


def normalised(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in -1..1, by the steps of the published processor: /255, -0.5, /0.5."""
    return (pixels.float() / 255 - 0.5) / 0.5


def merged(x_PD: Tensor, grid: Grid) -> Tensor:
    """The patches of one item -> mean over its frames, 2 x 2 side by side: [M, 4, D].

    The mean is taken in float32 whatever the dtype (`sd2_tpool`).
    """
    t, h, w = grid
    x = x_PD.view(t, h * w, -1)
    whole = x[0] if t == 1 else x.float().mean(0).to(x.dtype)
    blocks = whole.view(h // MERGE, MERGE, w // MERGE, MERGE, -1).transpose(1, 2)
    return blocks.reshape(-1, MERGE * MERGE, whole.shape[-1])
