"""What the tower promises beside the numbers: packing, counts, names, sizes, input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.config import Family, ModelConfig
from perilune.errors import UsageError
from perilune.formats.int4 import INT4
from perilune.model import KimiK2Model, named_slots
from perilune.model.vision import patch_counts, token_counts
from perilune.model.vision.tower import normalised
from perilune.vision_config import VisionConfig
from perilune.weights.published_config import full_size
from perilune.weights.tensor_table import expected_tensors, is_vision
from tests.model.vision.random_towers import (
    Grid,
    difference,
    random_grids,
    random_patches,
    random_tower,
    random_vision,
)


def test_full_size_on_meta() -> None:
    """Every name and shape, and the two totals of the published checkpoint."""
    config = full_size(Family.K25, INT4)
    with torch.device("meta"):
        model = KimiK2Model(
            ModelConfig(num_hidden_layers=1, n_routed_experts=8, vocab_size=64),
            config.vision_config,
        )
    slots = {n: tuple(t.shape) for n, t in named_slots(model) if is_vision(n)}
    assert slots == {s.name: s.shape for s in expected_tensors(config) if is_vision(s.name)}
    assert model.vision_tower is not None and model.mm_projector is not None
    assert sum(p.numel() for p in model.vision_tower.parameters()) == 416_866_032
    assert sum(p.numel() for p in model.mm_projector.parameters()) == 54_277_888
    assert len(slots) == 335 and all(p.is_meta for p in model.vision_tower.parameters())
    assert slots["vision_tower.patch_embed.proj.weight"] == (1152, 3, 14, 14)
    assert slots["vision_tower.patch_embed.pos_emb.weight"] == (64, 64, 1152)
    block = "vision_tower.encoder.blocks.26."
    assert slots[f"{block}wqkv.weight"] == (3456, 1152) and slots[f"{block}wqkv.bias"] == (3456,)
    assert slots[f"{block}wo.weight"] == (1152, 1152)
    assert slots[f"{block}mlp.fc0.weight"] == (4304, 1152)
    assert slots[f"{block}mlp.fc1.weight"] == (1152, 4304)
    assert slots[f"{block}norm0.bias"] == slots[f"{block}norm1.weight"] == (1152,)
    assert slots["vision_tower.encoder.final_layernorm.weight"] == (1152,)
    assert slots["mm_projector.pre_norm.weight"] == (1152,)
    assert slots["mm_projector.proj.0.weight"] == (4608, 4608)
    assert slots["mm_projector.proj.2.weight"] == (7168, 4608)


@pytest.mark.parametrize("seed", range(6))
@torch.inference_mode()
def test_an_item_alone_gives_what_it_gives_among_others(seed: int) -> None:
    config = random_vision(seed)
    grids = random_grids(seed, config)
    tower, _ = random_tower(config, seed)
    patches = random_patches(config, grids, seed)
    together = tower(patches, grids).split(token_counts(grids))
    alone = [tower(p, [g]) for p, g in zip(patches.split(patch_counts(grids)), grids, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert difference(one, other) < 1e-5


@torch.inference_mode()
def test_attention_never_crosses_an_item() -> None:
    """NaN in one item stays there; in it, it reaches every token."""
    config = random_vision(1)
    tower, projector = random_tower(config, 1)
    grids: list[Grid] = [(1, 4, 6), (2, 2, 4), (1, 2, 2)]
    patches = random_patches(config, grids)
    for spoiled in range(3):
        bad = [p.clone() for p in patches.split(patch_counts(grids))]
        bad[spoiled][0, 0] = torch.nan
        tokens = projector(tower(torch.cat(bad), grids)).split(token_counts(grids))
        for item, found in enumerate(tokens):
            assert bool(found.isnan().all()) == (item == spoiled)
            assert bool(found.isnan().any()) == (item == spoiled)


@torch.inference_mode()
def test_one_frame_is_a_picture_and_two_are_not_two_pictures() -> None:
    config = random_vision(1)
    tower, _ = random_tower(config, 1)
    frame = random_patches(config, [(1, 4, 4)])
    single = tower(frame, [(1, 4, 4)])
    assert not torch.allclose(tower(frame.repeat(2, 1), [(2, 4, 4)]), single)
    assert single.shape == (4, 4, config.vt_hidden_size)


@torch.inference_mode()
def test_pixels_are_normalised_as_the_processor_does() -> None:
    config = random_vision(2)
    tower, _ = random_tower(config, 2)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, config.patch_values), generator=generator).byte()
    assert torch.equal(normalised(torch.tensor([0, 255], dtype=torch.uint8)),
                       torch.tensor([-1.0, 1.0]))  # fmt: skip
    grids: list[Grid] = [(1, 4, 4)]
    found = tower(pixels, grids)
    assert torch.equal(found, tower(normalised(pixels), grids))
    side = config.patch_size
    assert torch.equal(found, tower(pixels.view(-1, 3, side, side), torch.tensor(grids)))


even = st.integers(1, 256).map(lambda n: 2 * n)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), even, even), max_size=6))
def test_counts_need_no_tower(grids: list[Grid]) -> None:
    assert token_counts(grids) == [h * w // 4 for _, h, w in grids]
    assert patch_counts(grids) == [t * h * w for t, h, w in grids]
    if grids:
        assert token_counts(torch.tensor(grids)) == token_counts(grids)


@pytest.mark.parametrize(
    "grid",
    [(0, 2, 2), (5, 2, 2), (1, 3, 2), (1, 2, 0), (1, 514, 2), (1, 2, 1024), (1, 2), (1, 2, 2, 2),
     (-1, 2, 2), (1, -2, -2), (1, 2.5, 2)],
    ids=str,
)  # fmt: skip
def test_a_grid_that_no_item_can_have(grid: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        token_counts([grid])  # type: ignore[list-item]
    tower, _ = random_tower(random_vision(1), 1)
    with pytest.raises(UsageError):
        tower(torch.zeros(4, tower.config.patch_values), [grid])


def test_patches_that_do_not_fit_their_grids() -> None:
    config = random_vision(1)
    tower, projector = random_tower(config, 1)
    for shape in ((3, config.patch_values), (4, config.patch_values + 1), (5, config.patch_values)):
        with pytest.raises(UsageError, match="patches of shape"):
            tower(torch.zeros(shape), [(1, 2, 2)])
    nothing = tower(torch.zeros(0, config.patch_values), [])
    assert projector(nothing).shape == (0, config.text_hidden_size)


def test_a_projector_of_another_width_is_refused() -> None:
    from perilune.errors import ConfigError

    with pytest.raises(ConfigError, match="projector gives vectors of 40"):
        KimiK2Model(ModelConfig(num_hidden_layers=1), VisionConfig(text_hidden_size=40))
