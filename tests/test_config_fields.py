"""Each field of `config.json`, changed: refused, or computed as transformers does, or harmless.

Never a silent difference: `rope_parameters: {"rope_type": "default"}` beside a `rope_scaling` once
dropped YaRN without a word.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perilune.config import (
    CheckpointConfig,
    Family,
    ModelConfig,
    fields_table,
    parse_config,
    read_config,
)
from perilune.config_fields import (
    ROPE,
    TABLES,
    TEXT,
    TOP,
)
from perilune.errors import ConfigError, ConfigWarning
from perilune.formats import FORMATS, StorageFormat, fp8, int4
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.model import KimiK2Model, named_slots
from perilune.weights.checkpoint import open_checkpoint
from perilune.weights.published_config import config_json, full_size
from tests.model.random_models import _stack_experts, random_config, random_ids, random_model

CONFIG = random_config(
    2, vocab_size=200, hidden_size=48, num_hidden_layers=2, first_k_dense_replace=1,
    n_routed_experts=8, num_experts_per_tok=3, n_group=2, topk_group=1, n_shared_experts=1,
    num_attention_heads=2, q_lora_rank=16, qk_rope_head_dim=16, norm_topk_prob=True,
    rms_norm_eps=1e-5,
)  # fmt: skip
RAW: dict[str, Any] = json.loads(json.dumps(config_json(CheckpointConfig(CONFIG, Family.K2, BF16))))
RAW["eos_token_id"], RAW["bos_token_id"] = 1, 0
IDS = random_ids(CONFIG, 1, 48, seed=3)
GONE: Any = object()
FLOATS = ("routed_scaling_factor", "rms_norm_eps")
VALUES: list[Any] = [
    GONE, None, "x", "", True, False, 0, 1, 2, 3, -1, 0.0, 0.5, 1.0, 2.0, 64.0, 4096, 10**6, [], {},
    [1], ["full_attention"], ["full_attention"] * 2, ["sliding_attention"] * 2, {"a": 1}, "softmax",
    "greedy", "gelu", "swish", "float32", "yarn", "default", "linear", "dynamic",
    {"rope_type": "default"}, {"type": "yarn", "factor": 2.0},
    {"rope_type": "default", "rope_theta": 50000.0},
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "linear", "factor": 2.0}, RAW["rope_scaling"],
    RAW["rope_scaling"] | {"factor": 2.0}, RAW["rope_scaling"] | {"rope_theta": 50000.0},
    RAW["rope_scaling"] | {"rope_type": "yarn", "type": "yarn"},
    RAW["rope_scaling"] | {"rope_type": "default"}, {"0": {"sliding_window": 4}},
]  # fmt: skip
UNKNOWN = [
    "use_qk_norm", "attn_logit_softcapping", "final_logit_softcapping", "mlp_bias", "lm_head_bias",
    "embedding_multiplier", "residual_multiplier", "logits_scaling", "linear_attn_config",
    "index_topk", "attn_module_list_cfg", "alibi", "position_embedding_type", "moe_router_bias",
    "swiglu_limit", "activation_func", "lora_rank", "use_mla", "rotary_dim", "mlp_layer_types",
]  # fmt: skip


@lru_cache(maxsize=1)
def weights() -> dict[str, Tensor]:
    return random_model(CONFIG, 5).state_dict()


def ours(raw: dict[str, Any]) -> Tensor | None:
    """Logits, or None where the folder would not be loaded."""
    try:
        return _logits(parse_config(raw).text)
    except ConfigError:
        return None


@lru_cache(maxsize=256)
@torch.inference_mode()
def _logits(text: ModelConfig) -> Tensor | None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in named_slots(KimiK2Model(text))}
    if shapes != {name: weights()[name].shape for name in weights()}:  # as `check_tensors` finds
        return None
    model = KimiK2Model(text)
    model.load_state_dict(weights())
    return model.eval()(IDS)


def theirs(raw: dict[str, Any]) -> Tensor | None:
    return _their_logits(json.dumps(raw))


@lru_cache(maxsize=256)
@torch.inference_mode()
def _their_logits(text: str) -> Tensor | None:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    try:
        raw = json.loads(text) | {"attn_implementation": "eager"}
        raw |= {"experts_implementation": "eager", "torch_dtype": "float32"}
        config = DeepseekV3Config.from_dict(raw)
        model = DeepseekV3ForCausalLM(config).eval()
        model.load_state_dict(_stack_experts(CONFIG, weights()))
        return model(IDS).logits
    except Exception:
        return None


def same(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())


@lru_cache(maxsize=1)
def base() -> Tensor:
    logits = ours(RAW)
    assert logits is not None
    reference = theirs(RAW)
    assert reference is not None and same(logits, reference)
    return logits


def changed(raw: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {k: v for k, v in (raw | {name: value}).items() if v is not GONE}


def assert_no_silent_difference(raw: dict[str, Any], *, harmless: bool) -> None:
    logits = ours(raw)
    if logits is None:
        return
    if harmless:
        assert same(logits, base())
        return
    # transformers refuses 2 where 2.0 is meant.
    numbers = {k: float(raw[k]) for k in FLOATS if type(raw.get(k)) is int}
    # It also refuses words of a wrong type in fields that are harmless; those are tested alone.
    plain = {k: v for k, v in raw.items() if k not in TEXT or TEXT[k].use != "harmless"}
    plain |= {k: v for k, v in RAW.items() if k in TEXT and TEXT[k].use == "harmless"}
    reference = theirs(plain | numbers)
    assert same(logits, base() if reference is None else reference)


@pytest.mark.parametrize("name", [*TEXT, *UNKNOWN])
def test_a_changed_field_is_refused_or_equal_or_harmless(name: str) -> None:
    field = TEXT.get(name)
    for value in VALUES:
        raw = changed(RAW, name, value)
        assert_no_silent_difference(raw, harmless=field is not None and field.use == "harmless")
        if field is None and value not in (GONE, None, False, [], {}, "", 0, 0.0):
            with pytest.raises(ConfigError):
                parse_config(raw)


@pytest.mark.parametrize("name", [*ROPE, "short_factor", "low_freq_factor", "finetuned"])
@pytest.mark.parametrize("kind", ["rope_scaling", "rope_parameters"])
def test_a_changed_field_of_the_rope(name: str, kind: str) -> None:
    rope = dict(RAW["rope_scaling"])
    raw = {k: v for k, v in RAW.items() if k != "rope_scaling"}
    if kind == "rope_parameters":
        rope["rope_type"] = rope.pop("type")
    for value in VALUES:
        if not isinstance(value, dict | list):
            assert_no_silent_difference(raw | {kind: changed(rope, name, value)}, harmless=False)


def test_the_fields_that_count_do_count() -> None:
    """The comparison above sees what it should: these change our logits too."""
    for name, value in (
        ("rope_theta", 10_000.0), ("routed_scaling_factor", 1.0), ("norm_topk_prob", False),
        ("n_group", 1), ("num_experts_per_tok", 2), ("rms_norm_eps", 0.1), ("topk_group", 2),
        ("rope_scaling", RAW["rope_scaling"] | {"factor": 2.0}), ("rope_scaling", None),
        ("rope_scaling", RAW["rope_scaling"] | {"mscale": 0.5}),
        ("rope_scaling", RAW["rope_scaling"] | {"beta_fast": 3.0}),
    ):  # fmt: skip
        raw = RAW | {name: value}
        logits, reference = ours(raw), theirs(raw)
        assert logits is not None and reference is not None, name
        assert same(logits, reference), name
        assert not same(logits, base()), name


def test_default_beside_yarn_keeps_yarn_and_says_so() -> None:
    raw = RAW | {"rope_parameters": {"rope_type": "default"}}
    config = parse_config(raw)
    assert config.text.rope == CONFIG.rope
    assert any("rope_scaling counts" in each for each in config.notices)
    logits, reference = ours(raw), theirs(raw)
    assert logits is not None and reference is not None and same(logits, reference)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"type": "default"}, "rope_parameters": RAW["rope_scaling"]},
        {"rope_parameters": RAW["rope_scaling"] | {"factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "factor": 64.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
        {"rope_scaling": RAW["rope_scaling"] | {"rope_theta": 10_000.0}},
        {"rope_scaling": RAW["rope_scaling"] | {"rope_type": "default"}},
        {"rope_scaling": {k: v for k, v in RAW["rope_scaling"].items() if k != "type"}},
        {"num_local_experts": 4}, {"head_dim": 64}, {"num_key_value_heads": 1},
        {"partial_rotary_factor": 0.5}, {"rope_interleave": False}, {"sliding_window": 4096},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"architectures": ["DeepseekV32ForCausalLM"]}, {"eos_token_id": "163586"},
        {"eos_token_id": [1, "2"]}, {"eos_token_id": -1}, {"eos_token_id": True},
    ],
    ids=lambda each: str(each)[:60],
)  # fmt: skip
def test_contradictions_name_the_field(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(RAW | change, file=Path("config.json"))
    names = [*change, *(k for v in change.values() if isinstance(v, dict) for k in v)]
    assert any(name in str(caught.value) for name in names)
    assert caught.value.remedy


MUTATIONS = st.tuples(st.sampled_from([*TEXT, *UNKNOWN[:3]]), st.sampled_from(VALUES))


@settings(max_examples=60, deadline=None)
@given(st.lists(MUTATIONS, min_size=2, max_size=3))
def test_no_changes_together_make_a_silent_difference(mutations: list[tuple[str, Any]]) -> None:
    raw = RAW
    for name, value in mutations:
        raw = changed(raw, name, value)
    harmless = all(name in TEXT and TEXT[name].use == "harmless" for name, _ in mutations)
    assert_no_silent_difference(raw, harmless=harmless)


K25: dict[str, Any] = config_json(full_size(Family.K25, INT4))


@pytest.mark.parametrize("name", [*TEXT, *TOP, *UNKNOWN])
def test_a_field_beside_text_config_agrees_or_is_refused(name: str) -> None:
    expected = parse_config(K25)
    for value in VALUES:
        raw = changed(json.loads(json.dumps(K25)), name, value)
        try:
            config = parse_config(raw)
        except ConfigError:
            continue
        assert config.text == expected.text
        assert name == "eos_token_id" or config.eos_token_ids == expected.eos_token_ids
        assert config.storage is expected.storage


@pytest.mark.parametrize("name", [*TEXT, *UNKNOWN])
def test_text_config_is_read_as_a_whole_file_is(name: str) -> None:
    text = K25["text_config"]
    blind = {k: v for k, v in K25.items() if k != "vision_config"}  # it must fit the text network
    for value in VALUES:
        inner = changed(text, name, value)
        try:
            alone = parse_config(inner).text
        except ConfigError:
            alone = None
        try:
            within = parse_config(blind | {"text_config": inner}).text
        except ConfigError:
            within = None
        if name not in ("model_type", "tie_word_embeddings"):  # the top level names these too
            assert within == alone, value


def _places(raw: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    config = raw["quantization_config"]
    group = config.get("config_groups", {}).get("group_0", {})
    if group:
        return {
            "a": (config, int4.TABLES[0]),
            "b": (group, int4.TABLES[1]),
            "c": (group["weights"], int4.TABLES[2]),
        }
    return {"a": (config, fp8.FIELDS)}


@pytest.mark.parametrize("storage", [FP8, INT4])
def test_a_changed_field_of_the_quantisation(storage: StorageFormat) -> None:
    family = Family.K2 if storage is FP8 else Family.K2_THINKING
    plain = config_json(full_size(family, storage))
    expected = parse_config(plain)
    values = [*VALUES, "static", "e5m2", "int", "float", "channel", "group", 8, [64, 64],
              {"num_bits": 8}]  # fmt: skip
    for place, (_, table) in _places(plain).items():
        for name in [*table, "g_idx", "scale_rule"]:
            for value in values:
                raw = json.loads(json.dumps(plain))
                target = _places(raw)[place][0]
                if value is GONE:
                    target.pop(name, None)
                else:
                    target[name] = value
                field = table.get(name)
                try:
                    config = parse_config(raw)
                except ConfigError:
                    assert field is None or field.use != "harmless"
                    continue
                if field is None:
                    assert value in (GONE, None, False, [], {}, "", 0, 0.0), (name, value)
                elif field.use == "checked":
                    assert value is GONE or field.takes(value), (name, value)
                if (name, value) not in (("group_size", 64), ("group_size", 4096),
                                         ("group_size", 10**6), ("group_size", 8)) and (
                    name != "weight_block_size"
                ):  # fmt: skip
                    assert config.storage == expected.storage, (name, value)


def test_two_quantisations_that_differ_are_refused() -> None:
    raw = json.loads(json.dumps(K25))
    raw["quantization_config"] = config_json(full_size(Family.K2, FP8))["quantization_config"]
    with pytest.raises(ConfigError, match="quantization_config"):
        parse_config(raw)


def test_published_files_give_no_notice() -> None:
    for family in Family:
        for storage in FORMATS.values():
            assert parse_config(config_json(full_size(family, storage))).notices == ()


def test_an_unknown_field_is_said_once_with_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RAW | {"colour": "red"}))
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    notices = read_config(tmp_path).notices
    assert notices == ("colour is 'red'; Perilune does not know this field",)
    warnings = open_checkpoint(tmp_path, problem=lambda error: None).warnings
    assert [str(each) for each in warnings if isinstance(each, ConfigWarning)] == [
        "config.json: colour is 'red'; Perilune does not know this field"
    ]


def test_a_stop_id_of_the_generation_config_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    for value in ("163586", [1, None], 1.5, True, {"a": 1}):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        with pytest.raises(ConfigError, match="eos_token_id"):
            read_config(tmp_path)


def test_the_page_has_the_tables() -> None:
    page = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text("utf-8")
    assert fields_table() in page


def test_no_field_is_in_a_table_without_a_word() -> None:
    for table in TABLES.values():
        for name, field in table.items():
            assert field.use == "used" or field.values or field.why, name
