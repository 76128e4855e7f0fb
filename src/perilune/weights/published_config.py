"""`config.json` as the family publishes it: full-size configurations, and writing one's own.

Sources: the published `config.json` of Kimi-K2-Instruct, Kimi-K2-Thinking and Kimi-K2.5. Fields
that only name Python beside the weights (`auto_map`) are left out: no Python is written.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perilune.config import CheckpointConfig, Family, ModelConfig, RopeConfig
from perilune.formats import StorageFormat

RESERVED_IDS = 256  # at the end of the vocabulary; the offsets below are those within them
BOS, EOS, IM_END, MEDIA_PAD, PAD = 0, 1, 2, 21, 255

VISION_CONFIG: Mapping[str, Any] = {
    "init_pos_emb_height": 64,
    "init_pos_emb_time": 4,
    "init_pos_emb_width": 64,
    "merge_kernel_size": [2, 2],
    "merge_type": "sd2_tpool",
    "mm_hidden_size": 1152,
    "mm_projector_type": "patchmerger",
    "patch_size": 14,
    "pos_emb_type": "divided_fixed",
    "projector_hidden_act": "gelu",
    "projector_ln_eps": 1e-05,
    "text_hidden_size": 7168,
    "video_attn_type": "spatial_temporal",
    "vt_hidden_size": 1152,
    "vt_intermediate_size": 4304,
    "vt_num_attention_heads": 16,
    "vt_num_hidden_layers": 27,
}


def full_size(family: Family, storage: StorageFormat) -> CheckpointConfig:
    """The published configuration of a family member, in the storage format asked for."""
    text = ModelConfig()
    if family is not Family.K2:
        beta_fast = 32.0 if family is Family.K25 else 1.0
        rope = RopeConfig(factor=64.0, beta_fast=beta_fast)
        text = replace(text, max_position_embeddings=262_144, rms_norm_eps=1e-5, rope=rope)
    vision = family is Family.K25
    return CheckpointConfig(
        text,
        family,
        storage,
        tensor_prefix="language_model." if vision else "",
        vision=VISION_CONFIG if vision else None,
    )


def config_json(config: CheckpointConfig) -> dict[str, Any]:
    """The content of `config.json`, in the spelling of the family. `raw` of `config` is not used.

    `read_config` gives the same configuration back (`lora_norm_eps` has no published field).
    """
    first = config.text.vocab_size - RESERVED_IDS
    ids: dict[str, int | None] = {"bos_token_id": first + BOS, "eos_token_id": first + IM_END}
    if config.family is Family.K2:
        ids["eos_token_id"] = first + EOS
    else:
        ids["pad_token_id"] = first + PAD
    if first < 0:  # a vocabulary without the special tokens
        ids = dict.fromkeys(ids)
    text = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "aux_loss_alpha": 0.001,
        **ids,
        **_network(config.text),
        "model_type": "kimi_k2",
    }
    quantization = config.storage.quantization_config()
    if config.family is not Family.K25:
        text["torch_dtype"] = "bfloat16"
        if quantization is not None:
            text["quantization_config"] = quantization
        return dict(sorted(text.items()))
    text["dtype"] = "bfloat16"
    if quantization is not None:
        text["quantization_config"] = quantization
    vision = {} if config.vision is None else {"vision_config": dict(config.vision)}
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        **ids,
        "dtype": "bfloat16",
        "ignore_index": -100,
        "media_placeholder_token_id": None if first < 0 else first + MEDIA_PAD,
        "model_type": "kimi_k25",
        "text_config": dict(sorted(text.items())),
        "tie_word_embeddings": config.text.tie_word_embeddings,
        "use_unified_vision_chunk": True,
        "video_placeholder": "<|kimi_k25_video_placeholder|>",
        **vision,
    }


def generation_config_json(config: CheckpointConfig) -> dict[str, Any]:
    """The content of `generation_config.json`: generation stops on <|im_end|> in every family."""
    first = config.text.vocab_size - RESERVED_IDS
    return {
        "eos_token_id": None if first < 0 else first + IM_END,
        "max_length": config.text.max_position_embeddings,
    }


def restored_as(config: CheckpointConfig, storage: StorageFormat) -> CheckpointConfig:
    """The same checkpoint in another storage format: `raw` keeps every other published field."""
    raw = copy.deepcopy(dict(config.raw))
    new = replace(config, storage=storage)
    quantization = storage.quantization_config()
    for part in (raw, raw.get("text_config")):
        if isinstance(part, dict):
            part.pop("quantization_config", None)
            part.pop("auto_map", None)
    if quantization is not None:
        place = raw["text_config"] if config.family is Family.K25 else raw
        place["quantization_config"] = quantization
    return replace(new, raw=raw)


def _network(text: ModelConfig) -> dict[str, Any]:
    names = (
        "vocab_size", "hidden_size", "num_hidden_layers", "first_k_dense_replace",
        "intermediate_size", "moe_intermediate_size", "n_routed_experts", "num_experts_per_tok",
        "n_shared_experts", "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor",
        "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "rms_norm_eps", "max_position_embeddings",
        "tie_word_embeddings",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(text, name) for name in names}
    rope = text.rope
    values["rope_scaling"] = {
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "factor": rope.factor,
        "mscale": rope.mscale,
        "mscale_all_dim": rope.mscale_all_dim,
        "original_max_position_embeddings": rope.original_max_position_embeddings,
        "type": "yarn",
    }
    return values | {
        "rope_theta": rope.theta,
        "num_key_value_heads": text.num_attention_heads,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0,
        "pretraining_tp": 1,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "topk_method": "noaux_tc",
        "use_cache": True,
    }
