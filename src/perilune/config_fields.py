"""Every field of a `config.json` of the family: used, checked to have the one value, or harmless.

A field that changes what the network computes and is read over is a wrong answer without a word.
So each field that the published files and transformers' classes have is in a table here; one that
is in none is named by a warning, and refused when its name says that it bears on the computation.

Sources: the published files of Kimi K2, K2 Thinking and K2.5; transformers 5, `DeepseekV3Config`,
`Kimi_K25Config`, `PreTrainedConfig` and `modeling_rope_utils`; compressed-tensors,
`QuantizationConfig` and `QuantizationArgs`. Tested against transformers in
`tests/test_config_fields.py`; the table of `docs/checkpoints.md` is made of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perilune.errors import ConfigError, UnsupportedArchitectureError

MAX_SIZE = 2**24  # no width, count or length of a published configuration comes near
MOST_SHOWN = 80  # characters of a foreign value in a message


@dataclass(frozen=True, slots=True)
class Field:
    """How a field is treated. `values`: what a checked one may be; `why`: a word on it."""

    use: Literal["used", "checked", "harmless"]
    values: tuple[Any, ...] = ()
    why: str = ""

    def takes(self, value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in self.values)


USED = Field("used")
API = Field("harmless", why="what transformers' calls return, not what is computed")
TRAINING = Field("harmless", why="training only")
LABELS = Field("harmless", why="names for the classes of a classifier")
NAMES = Field("harmless", why="where the file came from; nothing of it is run")
SAMPLING = Field("harmless", why="sampling is the request's, see the API; not applied")
STORED = Field("harmless", why="the tensors' own headers say it, and every one is checked")
MARKS = Field("harmless", why="ids of the marks around a picture; the tokenizer's files say them")
SPLIT = Field("harmless", why="how other software splits the same numbers over devices")


def checked(*values: Any, why: str = "") -> Field:
    """A field that may only have one of these values."""
    return Field("checked", values, why)


def table(*groups: tuple[str, Field]) -> dict[str, Field]:
    """Name -> treatment; the names of a group are parted by spaces."""
    return {name: field for names, field in groups for name in names.split()}


TEXT: Mapping[str, Field] = table(
    (
        "vocab_size hidden_size num_hidden_layers first_k_dense_replace intermediate_size "
        "moe_intermediate_size n_routed_experts num_experts_per_tok n_shared_experts n_group "
        "topk_group norm_topk_prob routed_scaling_factor num_attention_heads q_lora_rank "
        "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim rms_norm_eps "
        "max_position_embeddings tie_word_embeddings rope_theta rope_scaling rope_parameters "
        "eos_token_id model_type quantization_config",
        USED,
    ),
    ("scoring_func", checked("sigmoid")),
    ("topk_method", checked("noaux_tc")),
    ("hidden_act", checked("silu")),
    ("moe_layer_freq", checked(1)),
    ("attention_bias", checked(False)),
    ("rope_interleave", checked(True)),
    ("is_causal", checked(True)),
    ("is_encoder_decoder add_cross_attention tie_encoder_decoder", checked(False)),
    ("use_sliding_window", checked(False, None)),
    ("sliding_window attention_chunk_size cross_attention_hidden_size", checked(None)),
    ("per_layer_config pruned_heads", checked(None, {}, [])),
    ("partial_rotary_factor", checked(1, 1.0, None)),
    ("layer_types", Field("checked", why="None, or `full_attention` for every layer")),
    ("architectures", Field("checked", why="the family's own classes, or none")),
    ("num_key_value_heads", Field("checked", why="num_attention_heads, or null: MLA has one "
                                                 "latent for all heads")),
    ("num_local_experts num_experts", Field("checked", why="n_routed_experts, of which it is "
                                                           "another name")),
    ("head_dim", Field("checked", why="qk_rope_head_dim, as in transformers")),
    ("qk_head_dim", Field("checked", why="qk_nope_head_dim + qk_rope_head_dim")),
    ("original_max_position_embeddings", Field("checked", why="that of the rope")),
    (
        "use_cache return_dict return_dict_in_generate output_attentions output_hidden_states "
        "output_router_logits output_scores torchscript chunk_size_feed_forward is_decoder "
        "tie_last_hidden_states keys_to_ignore_at_inference _attn_implementation "
        "attn_implementation _attn_implementation_autoset experts_implementation "
        "_experts_implementation",
        API,
    ),
    (
        "attention_dropout initializer_range aux_loss_alpha seq_aux router_aux_loss_coef "
        "gradient_checkpointing tf_legacy_loss",
        TRAINING,
    ),
    (
        "num_nextn_predict_layers num_mtp_layers",
        Field("harmless", why="further layers that guess tokens ahead; the network without them "
                              "answers the same"),
    ),
    ("ep_size pretraining_tp", SPLIT),
    ("torch_dtype dtype use_bfloat16", STORED),
    ("bos_token_id pad_token_id sep_token_id decoder_start_token_id tokenizer_class",
     Field("harmless", why="the tokenizer's files say it")),
    (
        "id2label label2id num_labels problem_type task_specific_params finetuning_task "
        "classifier_dropout",
        LABELS,
    ),
    ("_name_or_path name_or_path _commit_hash transformers_version auto_map torch_version", NAMES),
    (
        "temperature top_k top_p typical_p min_p do_sample num_beams num_beam_groups "
        "diversity_penalty early_stopping length_penalty repetition_penalty max_length min_length "
        "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids suppress_tokens "
        "begin_suppress_tokens forced_bos_token_id forced_eos_token_id num_return_sequences "
        "exponential_decay_length_penalty remove_invalid_values prefix",
        SAMPLING,
    ),
)  # fmt: skip

TOP: Mapping[str, Field] = {
    **table(
        ("text_config model_type quantization_config eos_token_id", USED),
        ("tie_word_embeddings", Field("checked", why="that of text_config")),
        ("architectures", TEXT["architectures"]),
        (
            "vision_config media_placeholder_token_id image_token_id projection_hidden_size "
            "projection_layer_norm_eps",
            USED,
        ),
        ("use_unified_vision_chunk", checked(True)),
        ("video_placeholder", checked("<|kimi_k25_video_placeholder|>")),
        ("video_token_id vision_start_token_id vision_end_token_id", MARKS),
        ("ignore_index", TRAINING),
    ),
    **{name: field for name, field in TEXT.items() if field.use == "harmless"},
}
"""Beside `text_config`, of kimi_k25. A used or checked field of the text network must agree."""

VISION: Mapping[str, Field] = {
    **{name: field for name, field in TEXT.items() if field.use == "harmless"},
    **table(
        (
            "patch_size init_pos_emb_height init_pos_emb_width init_pos_emb_time vt_hidden_size "
            "vt_intermediate_size vt_num_attention_heads vt_num_hidden_layers projector_ln_eps",
            USED,
        ),
        ("mm_hidden_size", Field("checked", why="vt_hidden_size")),
        ("text_hidden_size", Field("checked", why="hidden_size of the text network")),
        ("pos_emb_type", checked("divided_fixed")),
        ("merge_kernel_size", checked([2, 2])),
        ("merge_type", checked("sd2_tpool")),
        ("video_attn_type", checked("spatial_temporal")),
        ("mm_projector_type", checked("patchmerger")),
        ("projector_hidden_act", checked("gelu")),
        # transformers' own spelling
        (
            "model_type hidden_size intermediate_size num_attention_heads num_hidden_layers "
            "pos_emb_height pos_emb_width pos_emb_time",
            USED,
        ),
        ("hidden_act", checked("gelu_pytorch_tanh")),
        (
            "rope_parameters",
            checked(
                None,
                *({"rope_type": "axial", "rope_theta": theta} for theta in (10_000, 10_000.0)),
            ),
        ),
        ("is_encoder_decoder add_cross_attention tie_encoder_decoder", checked(False)),
        ("cross_attention_hidden_size", checked(None)),
        ("pruned_heads", checked(None, {}, [])),
        ("tie_word_embeddings", Field("harmless", why="the tower has no words")),
    ),
}

ROPE: Mapping[str, Field] = table(
    ("rope_type type rope_theta factor beta_fast beta_slow mscale mscale_all_dim "
     "original_max_position_embeddings", USED),
    ("attention_factor", checked(None)),
    ("truncate", checked(True)),
    ("partial_rotary_factor", checked(1, 1.0)),
)  # fmt: skip

TABLES: Mapping[str, Mapping[str, Field]] = {  # those of `quantization_config`: the formats' own
    "the text network (`config.json`, or `text_config` of K2.5)": TEXT,
    "K2.5, beside `text_config`": TOP,
    "`vision_config` of K2.5": VISION,
    "`rope_scaling`, `rope_parameters`": ROPE,
}

ARCHITECTURES = frozenset(
    {"DeepseekV3ForCausalLM", "DeepseekV3Model", "KimiK2ForCausalLM", "KimiK2Model",
     "KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration", "Kimi_K25Model"}
)  # fmt: skip

_BEARS_ON_NUMBERS = re.compile(
    r"rope|rotary|yarn|sliding|window|softcap|alibi|linear|index|norm|scal|bias|gate|router|expert"
    r"|topk|top_k|head|attn|attention|mla|moe|embed|position|layer|tie|quant|act|rank|dim|group"
    r"|residual|multiplier|temperature|compress|sparse|causal|lora|adapter|hidden|eps|clip|conv"
    r"|state|memory|chunk|mask|logit|block|delta|kda|nope|glu|limit|factor|bound"
)
_NEUTRAL: tuple[Any, ...] = (None, False, (), [], {}, "")


def check_fields(
    raw: Mapping[str, Any],
    known: Mapping[str, Field],
    place: str,
    file: Path | None,
    *,
    closed: bool = False,
) -> list[str]:
    """What is to be said of unknown fields; raises where a value is not supported.

    `place` names the object in messages ("" for the file itself). `closed`: every unknown field
    bears on the numbers.
    """  # fmt: skip
    prefix = f"{place}." if place else ""
    notices = []
    for name, value in raw.items():
        field = known.get(name)
        if field is not None and field.use == "checked" and field.values:
            if not field.takes(value):
                raise _unsupported(prefix + name, value, _listed(field.values), file)
        elif field is None and not _is_neutral(value):
            shown = f"{prefix}{name}"
            if closed or _BEARS_ON_NUMBERS.search(name.lower()):
                raise UnsupportedArchitectureError(
                    f"{shown} is {_short(value)}; Perilune does not know this field, and its name "
                    "says that it changes what the network computes",
                    file=file,
                    remedy="Take it out if it changes nothing, or use a newer Perilune",
                )
            notices.append(f"{shown} is {_short(value)}; Perilune does not know this field")
    return notices


def check_agreements(raw: Mapping[str, Any], file: Path | None) -> None:
    """Fields of the text network that say again what another says. Raises where they do not."""
    heads, experts = raw.get("num_attention_heads"), raw.get("n_routed_experts")
    nope, rope = raw.get("qk_nope_head_dim"), raw.get("qk_rope_head_dim")
    whole = nope + rope if type(nope) is int and type(rope) is int else None
    for name, wanted in (
        ("num_key_value_heads", (heads, None)),
        ("num_local_experts", (experts,)),
        ("num_experts", (experts,)),
        ("head_dim", (rope,)),
        ("qk_head_dim", (whole,)),
    ):
        if name in raw and not Field("checked", wanted).takes(raw[name]):
            raise _unsupported(name, raw[name], _listed(wanted), file)
    kinds = raw.get("layer_types")
    layers = raw.get("num_hidden_layers")
    if kinds is not None and kinds != ["full_attention"] * (layers if type(layers) is int else 0):
        raise _unsupported("layer_types", kinds, TEXT["layer_types"].why, file)


def check_architectures(value: Any, file: Path | None) -> None:
    """The classes that a file names must be the family's."""
    names = value if isinstance(value, list) else [] if value is None else [value]
    for name in names:
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise _unsupported("architectures", name, ", ".join(sorted(ARCHITECTURES)), file)


def check_repeated(top: Mapping[str, Any], text: Mapping[str, Any], file: Path | None) -> None:
    """Of K2.5: what stands beside `text_config` and in it must be the same.

    transformers takes the text network from `text_config`, and the tying of the head from the top.
    """  # fmt: skip
    for name, field in TEXT.items():
        if name not in top or field.use == "harmless":
            continue
        if name in ("model_type", "architectures", "eos_token_id"):
            continue
        inner = text.get(name, False if name == "tie_word_embeddings" else None)
        if name == "quantization_config" and (not top[name] or not inner):
            continue
        if top[name] != inner:
            raise ConfigError(
                f"{name} is {_short(top[name])} beside text_config and {_short(inner)} in it",
                file=file,
                remedy="Keep the one in text_config, as the published file does",
            )


def mapping(value: Any, name: str, file: Path | None) -> Mapping[str, Any]:
    """A JSON object or nothing (an empty one). Raises ConfigError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be an object, not {value!r}", file=file)
    return value


def tables_as_markdown(tables: Mapping[str, Mapping[str, Field]]) -> str:
    """Tables of fields as Markdown, for `docs/checkpoints.md`."""
    lines = []
    for title, fields in tables.items():
        lines += ["", f"**{title[0].upper()}{title[1:]}**", "", "| field | here |", "| --- | --- |"]
        groups: dict[tuple[str, str], list[str]] = {}
        for name, field in fields.items():
            said = field.why
            if field.use == "checked" and field.values:
                said = f"only {_listed(field.values)}"
            groups.setdefault((field.use, said), []).append(f"`{name}`")
        for (use, said), names in groups.items():
            lines.append(f"| {', '.join(names)} | {use}{f': {said}' if said else ''} |")
    return "\n".join(lines).strip()


def _is_neutral(value: Any) -> bool:
    return any(type(value) is type(each) and value == each for each in _NEUTRAL)


def _unsupported(
    name: str, value: Any, supported: str, file: Path | None
) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(
        f"{name} is {_short(value)}; supported is {supported}", file=file
    )


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(dict.fromkeys(json.dumps(value) for value in values))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
