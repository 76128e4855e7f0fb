"""`read_config`: the published spellings, what tells the family apart, and hostile input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.config import (
    Family,
    ModelConfig,
    RopeConfig,
    parse_config,
    read_config,
)
from perilune.errors import ConfigError, UnsupportedArchitectureError
from perilune.formats import FORMATS
from perilune.formats.fp8 import FP8, Fp8Format
from perilune.formats.int4 import INT4
from perilune.weights.published_config import config_json, full_size
from perilune.weights.tensor_table import expected_tensors
from tests.shared import shared_path

K2: dict[str, Any] = config_json(full_size(Family.K2, FP8))
THINKING: dict[str, Any] = config_json(full_size(Family.K2_THINKING, INT4))
K25: dict[str, Any] = config_json(full_size(Family.K25, INT4))


def test_the_real_k25_configuration() -> None:
    config = read_config(shared_path("data/kimi-tokenizer"))
    assert (config.family, config.storage) == (Family.K25, INT4)
    assert config.tensor_prefix == "language_model." and config.vision is not None
    text = config.text
    assert (text.num_hidden_layers, text.n_routed_experts, text.q_lora_rank) == (61, 384, 1536)
    assert (text.rms_norm_eps, text.lora_norm_eps) == (1e-5, 1e-6)
    assert text.rope == RopeConfig(50_000.0, 64.0, 4096, 32.0, 1.0, 1.0, 1.0)
    assert text.softmax_scale == pytest.approx(0.1446796, abs=1e-7)
    assert config.eos_token_ids == (163_586, 163_585)


def test_softmax_scale_of_k2() -> None:
    assert parse_config(K2).text.softmax_scale == pytest.approx(0.1308608, abs=1e-7)
    assert parse_config(K2).text == ModelConfig()
    assert ModelConfig().latent_dim == 576 and ModelConfig().qk_head_dim == 192


@pytest.mark.parametrize("model_type", ["kimi_k2", "deepseek_v3"])
def test_model_types_of_the_text_model(model_type: str) -> None:
    config = parse_config(K2 | {"model_type": model_type})
    assert (config.family, config.storage) == (Family.K2, FP8)
    assert config.storage == Fp8Format((128, 128)) and config.tensor_prefix == ""


def test_newer_spelling_of_the_rope() -> None:
    scaling = dict(K2["rope_scaling"])
    scaling["rope_type"] = scaling.pop("type")
    newer = {k: v for k, v in K2.items() if k not in ("rope_scaling", "rope_theta")}
    newer["rope_parameters"] = scaling | {"rope_theta": 50_000.0}
    assert parse_config(newer).text == parse_config(K2).text
    # As transformers writes it: both, and theta in one place only.
    both = newer | {"rope_scaling": scaling}
    assert parse_config(both).text == parse_config(K2).text


def test_a_model_without_yarn() -> None:
    plain = parse_config(K2 | {"rope_scaling": None}).text
    assert plain.rope.factor == 1 and plain.softmax_scale == pytest.approx(192**-0.5)


def test_family_follows_the_network_in_every_storage_format() -> None:
    for storage in FORMATS.values():
        for family in Family:
            assert parse_config(config_json(full_size(family, storage))).family is family


def test_the_chat_template_decides_between_k2_and_thinking(tmp_path: Path) -> None:
    for raw in (K2, THINKING):
        (tmp_path / "config.json").write_text(json.dumps(raw))
        for text, family in (("a <think> b", Family.K2_THINKING), ("a b", Family.K2)):
            (tmp_path / "chat_template.jinja").write_text(text)
            assert read_config(tmp_path).family is family
    (tmp_path / "config.json").write_text(json.dumps(K25))
    assert read_config(tmp_path).family is Family.K25


def test_generation_stops_on_both_ids_whatever_the_files_say(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(K2 | {"eos_token_id": 163_585}))
    assert read_config(tmp_path).eos_token_ids == (163_585, 163_586)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [163586, 7]}')
    assert read_config(tmp_path).eos_token_ids == (163_585, 163_586, 7)


def test_quantization_at_the_top_level_of_k25() -> None:
    raw = json.loads(json.dumps(K25))
    raw["quantization_config"] = raw["text_config"].pop("quantization_config")
    assert parse_config(raw).storage is INT4


BROKEN: dict[str, dict[str, Any]] = {
    "no layers": {"num_hidden_layers": 0},
    "layers as text": {"num_hidden_layers": "61"},
    "layers as float": {"num_hidden_layers": 61.0},
    "layers as bool": {"num_hidden_layers": True},
    "a bomb of layers": {"num_hidden_layers": 10**9},
    "a bomb of dense layers": {"num_hidden_layers": 2000, "n_routed_experts": 8},
    "a bomb of experts": {"n_routed_experts": 10**6, "num_hidden_layers": 60},
    "huge width": {"hidden_size": 2**40},
    "negative width": {"intermediate_size": -1},
    "infinite eps": {"rms_norm_eps": float("inf")},
    "odd rope width": {"qk_rope_head_dim": 63},
    "more chosen than there are": {"num_experts_per_tok": 400},
    "groups": {"n_group": 7},
    "no groups": {"n_group": 0},
    "more groups chosen than there are": {"n_group": 2, "topk_group": 3},
    "no group chosen": {"n_group": 2, "topk_group": 0},
    "chosen groups too small": {"n_group": 64, "topk_group": 1},
    "null": {"hidden_size": None},
    "rank": {"q_lora_rank": 0},
    "rank as text": {"q_lora_rank": "1536"},
    "theta": {"rope_theta": "x"},
    "theta of one": {"rope_theta": 1},
    "rope as list": {"rope_scaling": [1]},
    "factor": {"rope_scaling": {"type": "yarn", "factor": 0.5}},
    "factor as text": {"rope_scaling": {"type": "yarn", "factor": "a"}},
    "no original context": {
        "rope_scaling": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 0}
    },
    "no beta": {"rope_scaling": {"type": "yarn", "factor": 32.0, "beta_fast": 0}},
    "quantization as list": {"quantization_config": [1]},
    "unknown method": {"quantization_config": {"quant_method": "awq"}},
    "fp8 blocks": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}},
    "fp8 format": {"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}},
    "int4 of eight bits": {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
        }
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_contradictions_are_config_errors(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(K2 | BROKEN[name], file=Path("config.json"))
    assert caught.value.remedy and caught.value.file == Path("config.json")


@pytest.mark.parametrize("field", ["hidden_size", "rope_theta", "rms_norm_eps", "vocab_size"])
def test_missing_fields(field: str) -> None:
    with pytest.raises(ConfigError):
        parse_config({k: v for k, v in K2.items() if k != field})


@pytest.mark.parametrize(
    "change",
    [
        {"scoring_func": "softmax"},
        {"topk_method": "greedy"},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"moe_layer_freq": 2},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"model_type": "deepseek_v2"},
        {"model_type": None},
        {"model_type": ["kimi_k2"]},
        {"architectures": "KimiK3ForCausalLM"},
    ],
)
def test_other_architectures(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedArchitectureError):
        parse_config(K2 | change)


def test_k25_around_another_text_model() -> None:
    text = K25["text_config"] | {"model_type": "kimi_linear"}
    with pytest.raises(UnsupportedArchitectureError, match="kimi_linear"):
        parse_config(K25 | {"text_config": text})


def test_k25_without_a_text_model() -> None:
    for text in (None, {}, [], 7):
        with pytest.raises(ConfigError):
            parse_config(K25 | {"text_config": text})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"7", b"[" * 100_000, b" " * (17 * 2**20)]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path)
    assert caught.value.file == tmp_path / "config.json"


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is a file, not a folder\. Give the folder"):
        read_config(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"there is no folder .*absent\. Give the folder"):
        read_config(tmp_path / "absent")


def test_groups_that_hold_just_enough_experts() -> None:
    text = parse_config(K2 | {"n_group": 48, "topk_group": 1}).text  # 8 of a group of 8
    assert (text.n_group, text.topk_group, text.num_experts_per_tok) == (48, 1, 8)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(st.sampled_from((K2, THINKING, K25)), st.data())
@settings(max_examples=400, deadline=None)
def test_any_value_anywhere_is_read_or_refused(raw: dict[str, Any], data: st.DataObject) -> None:
    """A wrong value at a random place: a configuration with a finite table, or ConfigError."""
    raw = json.loads(json.dumps(raw))
    place: Any = raw
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
        else:
            place[key] = data.draw(ANYTHING)
            break
    try:
        config = parse_config(raw)
        next(iter(expected_tensors(config)))
        assert config.text.softmax_scale > 0
    except ConfigError:
        pass
