"""The table of expected tensors against the published listings and against the network itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.model.random_models import random_config
from tests.shared import shared_path
from tests.weights.small import FORMATS, divisible

from perilune.config import CheckpointConfig, Family, ModelConfig, parse_config
from perilune.errors import ConfigError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8, Fp8Format
from perilune.formats.int4 import INT4
from perilune.model import KimiK2Model, named_slots
from perilune.weights.describe import describe
from perilune.weights.published_config import full_size
from perilune.weights.reader import TORCH_DTYPES
from perilune.weights.stored import apply_format
from perilune.weights.tensor_table import (
    Part,
    TensorSpec,
    active_parameters,
    expected_tensors,
    is_ignored,
    text_parameters,
)


def table(config: CheckpointConfig) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in expected_tensors(config)}


def test_published_parameter_counts() -> None:
    assert text_parameters(ModelConfig()) == 1_026_408_232_448
    assert active_parameters(ModelConfig()) == (32_861_500_928, 31_687_095_808)


def test_fp8_listing_of_k2_instruct() -> None:
    specs = table(full_size(Family.K2, FP8))
    # The published 139,644 tensors include one unused table of rotary frequencies a layer, and
    # the published 1,026,470,731,056 values their 56 each.
    assert len(specs) + 61 == 139_644
    assert sum(s.numel for s in specs.values()) + 61 * 56 == 1_026_470_731_056
    assert Counter(s.dtype for s in specs.values()) == {
        "F8_E4M3": 69_608, "F32": 69_608 + 60, "BF16": 307,
    }  # fmt: skip
    shapes = {name: (spec.dtype, spec.shape) for name, spec in specs.items()}
    attention = "model.layers.60.self_attn."
    assert shapes[f"{attention}kv_a_proj_with_mqa.weight"] == ("F8_E4M3", (576, 7168))
    assert shapes[f"{attention}kv_a_proj_with_mqa.weight_scale_inv"] == ("F32", (5, 56))
    assert shapes["model.layers.1.mlp.gate.weight"] == ("BF16", (384, 7168))
    assert shapes["model.layers.1.mlp.gate.e_score_correction_bias"] == ("F32", (384,))
    assert shapes["lm_head.weight"] == ("BF16", (163_840, 7168))


def test_shapes_of_the_facts() -> None:
    shapes = {n: s.shape for n, s in table(full_size(Family.K2, BF16)).items()}
    layer, hidden = "model.layers.7.", 7168
    expected = {
        "model.embed_tokens.weight": (163_840, hidden),
        "model.norm.weight": (hidden,),
        f"{layer}input_layernorm.weight": (hidden,),
        f"{layer}post_attention_layernorm.weight": (hidden,),
        f"{layer}self_attn.q_a_proj.weight": (1536, hidden),
        f"{layer}self_attn.q_a_layernorm.weight": (1536,),
        f"{layer}self_attn.q_b_proj.weight": (12_288, 1536),
        f"{layer}self_attn.kv_a_proj_with_mqa.weight": (576, hidden),
        f"{layer}self_attn.kv_a_layernorm.weight": (512,),
        f"{layer}self_attn.kv_b_proj.weight": (16_384, 512),
        f"{layer}self_attn.o_proj.weight": (hidden, 8192),
        "model.layers.0.mlp.gate_proj.weight": (18_432, hidden),
        "model.layers.0.mlp.up_proj.weight": (18_432, hidden),
        "model.layers.0.mlp.down_proj.weight": (hidden, 18_432),
        f"{layer}mlp.gate.weight": (384, hidden),
        f"{layer}mlp.gate.e_score_correction_bias": (384,),
        f"{layer}mlp.experts.383.gate_proj.weight": (2048, hidden),
        f"{layer}mlp.experts.383.up_proj.weight": (2048, hidden),
        f"{layer}mlp.experts.383.down_proj.weight": (hidden, 2048),
        f"{layer}mlp.shared_experts.gate_proj.weight": (2048, hidden),
        f"{layer}mlp.shared_experts.up_proj.weight": (2048, hidden),
        f"{layer}mlp.shared_experts.down_proj.weight": (hidden, 2048),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert f"{layer}mlp.gate_proj.weight" not in shapes
    kinds = {re.sub(r"\.\d+", ".N", name) for name in shapes}
    assert len(kinds) == len({re.sub(r"\.\d+", ".N", name) for name in expected}) + 1  # lm_head


def test_int4_listing_of_k25() -> None:
    raw = json.loads((shared_path("data/kimi-tokenizer") / "config.json").read_text("utf-8"))
    specs = table(parse_config(raw))
    assert len(specs) == 208_550
    vision = [s for s in specs.values() if s.part is Part.VISION]
    tower = sum(s.numel for s in vision if s.name.startswith("vision_tower."))
    assert (tower, sum(s.numel for s in vision) - tower) == (416_866_032, 54_277_888)
    shapes = {name: (spec.dtype, spec.shape) for name, spec in specs.items()}
    expert = "language_model.model.layers.60.mlp.experts.383."
    assert shapes[f"{expert}gate_proj.weight_packed"] == ("I32", (2048, 896))
    assert shapes[f"{expert}gate_proj.weight_scale"] == ("BF16", (2048, 224))
    assert shapes[f"{expert}down_proj.weight_packed"] == ("I32", (7168, 256))
    assert shapes[f"{expert}down_proj.weight_scale"] == ("BF16", (7168, 64))
    assert shapes[f"{expert}down_proj.weight_shape"] == ("I32", (2,))
    assert shapes["vision_tower.encoder.blocks.26.wqkv.weight"] == ("BF16", (3456, 1152))
    assert shapes["mm_projector.proj.2.bias"] == ("BF16", (7168,))


def test_bytes_of_full_size_int4() -> None:
    what = describe(full_size(Family.K25, INT4))
    read = {part.part: round(part.per_token / 1e9, 1) for part in what.parts}
    assert read[Part.ROUTED_EXPERTS] == 11.9
    assert read[Part.ATTENTION] == 12.3
    assert read[Part.SHARED_EXPERTS] == 5.3
    assert read[Part.DENSE_MLP] == 0.8
    assert read[Part.ROUTER] == 0.3
    assert read[Part.LM_HEAD] == 2.3
    assert round(what.per_token / 1e9) == 33
    stored = {part.part: part.stored for part in what.parts}
    assert round(stored[Part.ROUTED_EXPERTS] / 1e9, 1) == 570.8
    assert what.latent_per_token == 70_272
    assert round(what.latent_full_context / 1e9, 1) == 18.4


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("seed", range(6))
def test_table_is_the_network(seed: int, storage: StorageFormat) -> None:
    """Names, shapes and dtypes are those of the modules, for any configuration and format."""
    text = random_config(seed, **divisible(storage))
    storage = Fp8Format((16, 24)) if storage is FP8 else storage
    config = CheckpointConfig(text, Family.K2, storage)
    with torch.device("meta"):
        model = KimiK2Model(text).to(torch.bfloat16)
    apply_format(model, config)
    slots = {name: (view.dtype, tuple(view.shape)) for name, view in named_slots(model)}
    expected = {
        name: (TORCH_DTYPES[spec.dtype], spec.shape) for name, spec in table(config).items()
    }
    assert slots == expected


def test_ignored_names() -> None:
    rotary = "model.layers.3.self_attn.rotary_emb.inv_freq"
    factor = "model.layers.3.self_attn.o_proj.weight_scale_inv"
    assert is_ignored(rotary, FP8) and is_ignored(rotary, INT4)
    assert is_ignored(factor, BF16) and not is_ignored(factor, FP8)
    assert not is_ignored("model.norm.weight", BF16)


def test_sizes_that_do_not_divide_into_groups() -> None:
    config = full_size(Family.K2, INT4)
    config = replace(config, text=replace(config.text, moe_intermediate_size=2040))
    with pytest.raises(ConfigError, match="groups of 32"):
        list(expected_tensors(config))


def test_tied_embeddings_have_one_tensor() -> None:
    config = CheckpointConfig(random_config(1, tie_word_embeddings=True), Family.K2)
    assert "lm_head.weight" not in table(config)


def test_a_bomb_of_vision_layers() -> None:
    config = full_size(Family.K25, INT4)
    bomb = replace(config, vision={**(config.vision or {}), "vt_num_hidden_layers": 2**19})
    with pytest.raises(ConfigError, match="524288 vision layers"):
        describe(bomb)
