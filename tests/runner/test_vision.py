"""`VisionEncoder`: the C kernels against the tower's own modules, and against each other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from perilune.config import ModelConfig
from perilune.errors import UsageError
from perilune.kernels import native
from perilune.model import KimiK2Model
from perilune.model.vision import patch_counts, token_counts
from perilune.runner.vision import VisionEncoder
from tests.model.random_models import random_config
from tests.model.vision.random_towers import (
    Grid,
    difference,
    fill,
    random_grids,
    random_patches,
    random_vision,
)

pytestmark = pytest.mark.skipif(not native.available(), reason="the C kernels are not built")


def eyed(seed: int, dtype: torch.dtype = torch.float32, **overrides: int) -> KimiK2Model:
    text: ModelConfig = random_config(seed, vocab_size=160, num_hidden_layers=1)
    vision = random_vision(seed, text_hidden_size=text.hidden_size, **overrides)
    model = KimiK2Model(text, vision)
    assert model.vision_tower is not None and model.mm_projector is not None
    fill(model.vision_tower, seed)
    fill(model.mm_projector, seed + 1)
    return model.to(dtype).eval()


def encoded(model: KimiK2Model, patches: Tensor, grids: list[Grid], **options: object) -> Tensor:
    """By the C kernels, on a copy: they rearrange the weights."""
    encoder = VisionEncoder(copy.deepcopy(model), **options)  # type: ignore[arg-type]
    assert encoder.is_native
    return encoder.encode(patches, grids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(12))
def test_the_kernels_are_the_modules(seed: int, dtype: torch.dtype) -> None:
    model = eyed(seed, dtype)
    assert model.vision is not None
    grids = random_grids(seed, model.vision)
    patches = random_patches(model.vision, grids, seed)
    with torch.inference_mode():
        expected = model.float().encode_pictures(patches, grids)
    found = encoded(model.to(dtype), patches, grids, exact=True)
    assert found.dtype == torch.float32 and len(found) == sum(token_counts(grids))
    assert difference(found, expected) <= 1e-5


@pytest.mark.parametrize("isa", native.isas() if native.available() else [])
def test_every_instruction_set(isa: str) -> None:
    """Odd sizes: outputs and inputs that are not multiples of 16, items across blocks of keys."""
    before = native.isa()
    model = eyed(3, vt_hidden_size=72, vt_num_attention_heads=1, vt_intermediate_size=70)
    assert model.vision is not None
    grids: list[Grid] = [(1, 12, 22), (1, 2, 2), (3, 6, 10), (1, 16, 16), (1, 2, 130)]
    patches = random_patches(model.vision, grids)
    with torch.inference_mode():
        expected = model.encode_pictures(patches, grids)
    try:
        native.select_isa(isa)
        found = encoded(model, patches, grids)
        assert difference(found, expected) <= 1e-5
        narrow = encoded(copy.deepcopy(model).bfloat16(), patches, grids)
        assert difference(narrow, expected) <= 0.05
    finally:
        native.select_isa(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_picture_alike_to_the_bit(dtype: torch.dtype) -> None:
    """Whatever shares the call, and on however many threads."""
    model = eyed(5, dtype)
    assert model.vision is not None
    grids: list[Grid] = [(1, 4, 6), (2, 10, 14), (1, 2, 2), (1, 26, 18), (4, 4, 6)]
    patches = random_patches(model.vision, grids)
    encoder = VisionEncoder(model)
    together = encoder.encode(patches, grids).split(token_counts(grids))
    threads = native.threads()
    try:
        for n in {1, threads, 3}:
            native.set_threads(n)
            items = zip(patches.split(patch_counts(grids)), grids, together, strict=True)
            for item, grid, expected in items:
                assert torch.equal(encoder.encode(item, [grid]), expected)
    finally:
        native.set_threads(threads)


def test_large_scores_and_bad_values() -> None:
    """Scores of thousands stay finite; NaN fills its own item and no other."""
    model = eyed(2)
    assert model.vision is not None and model.vision_tower is not None
    with torch.no_grad():
        model.vision_tower.encoder.blocks[0].wqkv.weight.mul_(100)
    grids: list[Grid] = [(1, 4, 6), (1, 12, 14), (1, 2, 2)]
    patches = random_patches(model.vision, grids)
    encoder = VisionEncoder(model)
    assert bool(encoder.encode(patches, grids).isfinite().all())
    patches[30] = torch.nan
    items = encoder.encode(patches, grids).split(token_counts(grids))
    assert [bool(item.isnan().any()) for item in items] == [False, True, False]
    assert bool(items[1].isnan().all())


def test_int8_by_the_option_of_the_text() -> None:
    model = eyed(0, vt_hidden_size=144, vt_num_attention_heads=2, vt_intermediate_size=300)
    assert model.vision is not None
    grids: list[Grid] = [(1, 8, 6), (2, 4, 4)]
    patches = random_patches(model.vision, grids)
    with torch.inference_mode():
        expected = model.encode_pictures(patches, grids)
    found = encoded(model, patches, grids, dense_format="int8")
    assert 1e-6 < difference(found, expected) < 0.06
    similar = torch.nn.functional.cosine_similarity(found, expected)
    assert float(similar.min()) > 0.999
    as_stored = encoded(model, patches, grids, dense_format="int4")
    assert difference(as_stored, expected) <= 1e-5


def test_the_modules_compute_where_torch_is_asked_for() -> None:
    model = eyed(1, torch.bfloat16)
    assert model.vision is not None
    grids: list[Grid] = [(1, 4, 6)]
    patches = random_patches(model.vision, grids)
    encoder = VisionEncoder(model, native=False)
    found = encoder.encode(patches, grids)
    assert not encoder.is_native and found.dtype == torch.float32
    with torch.inference_mode():
        assert torch.equal(found, model.encode_pictures(patches, grids).float())
    assert VisionEncoder(model.to(torch.float16)).is_native is False
    with pytest.raises(UsageError, match="float16"):
        VisionEncoder(model, native=True)


def test_a_model_without_a_tower_is_refused() -> None:
    with pytest.raises(UsageError, match="no vision tower"):
        VisionEncoder(KimiK2Model(random_config(1)))
