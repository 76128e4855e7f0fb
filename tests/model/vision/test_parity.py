"""The tower and the projector against transformers' `kimi_k25`, random weights, float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from perilune.model.vision.positions import frame_table, resampled
from tests.model.vision.random_towers import (
    Reference,
    difference,
    random_grids,
    random_patches,
    random_tower,
    random_vision,
)

BOUND = 1e-4


@pytest.mark.parametrize("seed", range(24))
@torch.inference_mode()
def test_tower_and_projector(seed: int) -> None:
    config = random_vision(seed)
    grids = random_grids(seed, config)
    tower, projector = random_tower(config, seed)
    patches = random_patches(config, grids, seed)
    vectors = tower(patches, grids)
    tokens = projector(vectors)
    expected_vectors, expected_tokens = Reference(config, tower, projector)(patches, grids)
    found = difference(vectors, expected_vectors), difference(tokens, expected_tokens)
    print(f"difference {max(found):.2g} tower {found[0]:.2g} projector {found[1]:.2g}")
    assert max(found) <= BOUND


def test_the_configurations_cover_the_cases() -> None:
    """1 to 9 frames, one picture and many, the table's own size and others, head width 72."""
    seen = [(random_vision(s), random_grids(s, random_vision(s))) for s in range(24)]
    frames = {sum(t for t, _, _ in grids) - sum(t == 1 for t, _, _ in grids) for _, grids in seen}
    assert {4, 8} <= frames
    assert {t for _, grids in seen for t, _, _ in grids} == {1, 2, 3, 4}
    assert {len(grids) for _, grids in seen} >= {1, 2, 5}
    assert {c.head_dim for c, _ in seen} == {4, 8, 16, 20, 72}
    own = [(h, w) == (c.init_pos_emb_height, c.init_pos_emb_width)
           for c, grids in seen for _, h, w in grids]  # fmt: skip
    assert any(own) and not all(own)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 66), (20, 20), (2, 512), (98, 148),
                                               (130, 4)])  # fmt: skip
def test_learnt_positions_are_torch_bicubic(rows: int, columns: int) -> None:
    table = torch.randn(64, 64, 8, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(
        table.permute(2, 0, 1)[None], size=(rows, columns), mode="bicubic", align_corners=False
    )
    found = resampled(table, rows, columns)
    assert difference(found, expected[0].permute(1, 2, 0).flatten(0, 1)) < 1e-5


def test_a_table_that_is_not_square_keeps_its_axes() -> None:
    table = torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(resampled(table, 6, 10), table.flatten(0, 1))
    expected = F.interpolate(
        table.permute(2, 0, 1)[None], size=(10, 6), mode="bicubic", align_corners=False
    )
    found = resampled(table, 10, 6)
    assert difference(found, expected[0].permute(1, 2, 0).flatten(0, 1)) < 1e-5


def test_the_table_of_frames() -> None:
    """Row p: all sines, then all cosines; row 0 adds 1 to the second half."""
    table = frame_table(4, 1152)
    assert torch.equal(table[0], torch.cat((torch.zeros(576), torch.ones(576))))
    k = torch.arange(576, dtype=torch.float64)
    angles = 3 * 10_000.0 ** (-k / 576)
    assert difference(table[3, :576], angles.sin()) < 1e-6
    assert difference(table[3, 576:], angles.cos()) < 1e-6
