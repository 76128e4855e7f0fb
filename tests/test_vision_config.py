"""Each field of `vision_config`, changed: refused, or used, or harmless. Never read over."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.config import CheckpointConfig, Family, parse_config
from perilune.config_fields import VISION
from perilune.errors import ConfigError
from perilune.formats.int4 import INT4
from perilune.vision_config import ALIASES, TRANSFORMERS_TYPE, VisionConfig
from perilune.weights.published_config import VISION_CONFIG, config_json, full_size
from tests.shared import shared_path

RAW: dict[str, Any] = config_json(full_size(Family.K25, INT4))
GONE: Any = object()
VALUES: list[Any] = [
    GONE, None, "x", "", True, False, 0, 1, 2, 3, -1, 0.0, 0.5, 1.0, 2.0, 12, 64, 1152, 7168, 4096,
    10**9, float("nan"), [], {}, [2, 2], [1, 1], [2, 1], "gelu", "gelu_pytorch_tanh", "relu",
    "sd2_tpool", "mean", "divided_fixed", "interpolated", "spatial_temporal", "patchmerger", "mlp",
    {"rope_type": "axial", "rope_theta": 10000}, {"rope_type": "axial", "rope_theta": 5000},
    "kimi_k25_vision", "siglip_vision_model", "float32",
]  # fmt: skip
UNKNOWN = ["window_size", "qk_norm", "num_register_tokens_scale", "pos_emb_interpolation_mode",
           "rope_theta", "norm_eps", "use_bias", "layer_scale", "vt_head_dim"]  # fmt: skip
# What a field of the file sets; a checked one sets none.
SETS = {**{f.name: f.name for f in fields(VisionConfig)},
        **{alias: name for name, alias in ALIASES.items()}}  # fmt: skip


def read(vision: dict[str, Any], **top: Any) -> CheckpointConfig:
    return parse_config(json.loads(json.dumps(RAW)) | {"vision_config": vision} | top)


def changed(raw: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {k: v for k, v in ({**raw, name: value}).items() if v is not GONE}


def differing(one: VisionConfig, other: VisionConfig) -> set[str]:
    names = (f.name for f in fields(VisionConfig))
    return {name for name in names if getattr(one, name) != getattr(other, name)}


@pytest.mark.parametrize("name", [*VISION, *UNKNOWN])
def test_a_changed_field_is_refused_or_used_or_harmless(name: str) -> None:
    base = read(dict(VISION_CONFIG)).vision_config
    assert base is not None
    field = VISION.get(name)
    for value in VALUES:
        try:
            config = read(changed(dict(VISION_CONFIG), name, value)).vision_config
        except ConfigError as error:
            assert field is None or field.use != "harmless", (name, value)
            assert name in str(error) or name in SETS.values(), (name, value)
            continue
        assert config is not None
        differences = differing(base, config)
        if field is None:
            assert value in (GONE, None, False, [], {}, ""), (name, value)
            assert not differences
        elif field.use == "used" and name != "model_type":
            assert differences <= {SETS.get(name)}, (name, value)
            same = value is GONE or value == getattr(base, SETS[name])
            assert bool(differences) != same, (name, value)
        else:
            assert not differences, (name, value)
            assert field.use == "harmless" or value is GONE or field.takes(value) or value in (
                1152, 7168, TRANSFORMERS_TYPE, None,
            ) or name == "model_type", (name, value)  # fmt: skip


def test_every_published_field_is_in_the_table() -> None:
    raw = json.loads((shared_path("data/kimi-tokenizer") / "config.json").read_text("utf-8"))
    assert raw["vision_config"].keys() <= VISION.keys()
    config = parse_config(raw)
    assert config.notices == ()
    assert config.vision_config == VisionConfig(media_token_id=163_605)


def test_the_spelling_of_transformers() -> None:
    """Its configuration classes, written out, say the same as the published file."""
    from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25VisionConfig

    theirs = json.loads(Kimi_K25VisionConfig(num_hidden_layers=3).to_json_string(use_diff=False))
    config = read(theirs, media_placeholder_token_id=None, image_token_id=163_605)
    assert config.vision_config == VisionConfig(vt_num_hidden_layers=3, media_token_id=163_605)
    short = {"model_type": TRANSFORMERS_TYPE, "hidden_size": 576}
    config = read(short, projection_hidden_size=576, projection_layer_norm_eps=1e-6)
    assert config.vision_config == VisionConfig(
        vt_hidden_size=576, projector_ln_eps=1e-6, media_token_id=163_605
    )


@pytest.mark.parametrize(
    ("vision", "top", "named"),
    [
        ({"mm_hidden_size": 1024}, {}, "mm_hidden_size"),
        ({"text_hidden_size": 4096}, {}, "text_hidden_size"),
        ({"vt_num_attention_heads": 7}, {}, "vt_num_attention_heads"),
        ({"vt_num_attention_heads": 576}, {}, "vt_num_attention_heads"),
        ({"merge_type": "mean"}, {}, "merge_type"),
        ({"hidden_size": 1024}, {}, "hidden_size"),
        ({}, {"media_placeholder_token_id": 163_840}, "media_placeholder_token_id"),
        ({}, {"media_placeholder_token_id": -1}, "media_placeholder_token_id"),
        ({}, {"image_token_id": 163_602}, "image_token_id"),
        ({}, {"projection_hidden_size": 99}, "projection_hidden_size"),
        ({}, {"use_unified_vision_chunk": False}, "use_unified_vision_chunk"),
        ({}, {"video_placeholder": "<video>"}, "video_placeholder"),
    ],
    ids=str,
)
def test_contradictions_name_the_field(
    vision: dict[str, Any], top: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        read({**VISION_CONFIG, **vision}, **top)
    assert "config" in str(caught.value) or named in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*VISION, *UNKNOWN]), st.sampled_from(VALUES)),
                min_size=2, max_size=4))  # fmt: skip
def test_any_changes_give_a_model_that_can_be_built_or_a_typed_error(
    mutations: list[tuple[str, Any]],
) -> None:
    raw = dict(VISION_CONFIG)
    for name, value in mutations:
        raw = changed(raw, name, value)
    try:
        config = read(raw).vision_config
    except ConfigError:
        return
    assert config is not None
    assert config.vt_hidden_size % config.vt_num_attention_heads == 0
    assert config.head_dim % 4 == 0 and config.text_hidden_size == 7168
    assert min(config.vt_num_hidden_layers, config.patch_size, config.init_pos_emb_time) >= 1
