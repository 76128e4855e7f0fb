"""What a checkpoint's `config.json` says, typed: the network, its storage format, its family.

Reads the published spellings: K2 (`model_type` kimi_k2 or deepseek_v3), K2.5 (kimi_k25 with a
`text_config`), `rope_scaling` + `rope_theta` and the newer `rope_parameters`. No torch here, so
that the commands that only read a configuration start at once.

Sources: the published `config.json` files of Kimi K2, K2 Thinking and K2.5; arXiv 2412.19437
(DeepSeek-V3) for the architecture. The rotary embedding is read by `rope_config`.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from perilune.config_fields import (
    MAX_SIZE,
    TABLES,
    TEXT,
    TOP,
    check_agreements,
    check_architectures,
    check_fields,
    check_repeated,
    mapping,
    tables_as_markdown,
)
from perilune.errors import ConfigError, UnsafeFileError, UnsupportedArchitectureError
from perilune.formats import FORMATS, StorageFormat, read_quantization
from perilune.formats.bf16 import BF16
from perilune.rope_config import RopeConfig as RopeConfig
from perilune.rope_config import parse_rope
from perilune.vision_config import VisionConfig, parse_vision

MAX_CONFIG_BYTES = 16 * 2**20
MAX_LAYERS = 1024  # a full-size K2 has 61
MAX_MODULES = 2**20  # experts of all layers; a full-size K2 has 23,040
IM_END_ID = 163586  # <|im_end|>: generation stops on it whatever the configuration says
EOS_ID = 163585  # [EOS]
K3_NAMES = ("K3", "KimiLinear")
TEXT_MODEL_TYPES = ("kimi_k2", "deepseek_v3")


class Family(StrEnum):
    """Which member of the family a checkpoint is; decides the conversation format."""

    K2 = "k2"
    K2_THINKING = "k2-thinking"
    K25 = "k2.5"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The text network. Field names are those of the published configuration files."""

    vocab_size: int = 163_840
    hidden_size: int = 7168
    num_hidden_layers: int = 61
    first_k_dense_replace: int = 1
    intermediate_size: int = 18_432
    moe_intermediate_size: int = 2048
    n_routed_experts: int = 384
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.827
    num_attention_heads: int = 64
    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    rms_norm_eps: float = 1e-6
    # The reference keeps 1e-6 in q_a_layernorm and kv_a_layernorm whatever rms_norm_eps says.
    lora_norm_eps: float = 1e-6
    max_position_embeddings: int = 131_072
    tie_word_embeddings: bool = False
    rope: RopeConfig = field(
        default_factory=lambda: RopeConfig(factor=32.0, beta_fast=1.0, beta_slow=1.0)
    )

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        return self.rope.softmax_multiplier / math.sqrt(self.qk_head_dim)

    @property
    def latent_dim(self) -> int:
        """Values cached per token and layer: the normed latent and the rotated shared key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def is_moe_layer(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """A checkpoint's configuration: the network, its storage format and how text meets it."""

    text: ModelConfig
    family: Family
    storage: StorageFormat = BF16
    tensor_prefix: str = ""  # K2.5 puts "language_model." before every text tensor
    vision: Mapping[str, Any] | None = None
    eos_token_ids: tuple[int, ...] = (EOS_ID, IM_END_ID)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()  # fields that are not known, and what was made of doubtful ones

    @property
    def vision_config(self) -> VisionConfig | None:
        """`vision`, typed; None for a model that sees no pictures. Raises ConfigError."""
        if self.vision is None:
            return None
        sizes = self.text.hidden_size, self.text.vocab_size
        return parse_vision(
            self.vision, top=self.raw, text_hidden_size=sizes[0], vocab_size=sizes[1]
        )[0]


def read_config(folder: str | Path) -> CheckpointConfig:
    """Read `config.json` (and `generation_config.json` where there is one) of a checkpoint folder.

    Raises ConfigError (missing, too large, not JSON, contradictory) or
    UnsupportedArchitectureError (another model family; Kimi K3 is named).
    """
    folder = Path(folder)
    remedy = "Give the folder that holds config.json and the *.safetensors files"
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else f"there is no folder {folder}"
        raise ConfigError(what, file=folder, remedy=remedy)
    file = checkpoint_file(folder, "config.json")
    if file is None:
        raise ConfigError(f"not found in {folder}", file=folder / "config.json", remedy=remedy)
    config = parse_config(_read_json(file), file=file)
    eos = config.eos_token_ids
    if generation := checkpoint_file(folder, "generation_config.json"):
        eos = eos + _ids(_read_json(generation).get("eos_token_id"), generation)
    family = config.family
    template = checkpoint_file(folder, "chat_template.jinja")
    if family is not Family.K25 and template is not None:
        # Only looked at as text, never rendered: it tells K2 Thinking from K2-Instruct for sure.
        family = Family.K2_THINKING if "<think>" in _read_text(template) else Family.K2
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    values.update(family=family, eos_token_ids=tuple(dict.fromkeys(eos)))
    return CheckpointConfig(**values)


def checkpoint_file(folder: Path, name: str) -> Path | None:
    """The regular file `name` of a checkpoint folder, or None where there is none.

    A link may point anywhere inside the folder, and inside the `models--...` folder of a
    Hugging Face cache, whose snapshots link to `blobs/`. Raises UnsafeFileError for every other
    link, for a name that is a path, and for devices, pipes and folders.
    """
    path = folder / name
    if Path(name).name != name or name in ("", ".", ".."):
        raise UnsafeFileError(
            f"{name!r} is a path, not the name of a file of this folder", file=folder
        )
    try:
        target = path.resolve()
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UnsafeFileError("is a link whose target does not exist", file=path) from None
        return None
    except (OSError, RuntimeError, ValueError) as error:
        raise UnsafeFileError(f"cannot be opened: {error}", file=path) from None
    home = folder.resolve()
    roots = [home]
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        roots.append(home.parent.parent)
    if not any(target.is_relative_to(root) for root in roots):
        raise UnsafeFileError(
            f"is a link out of the checkpoint, to {target}",
            file=path,
            remedy="Put the file itself into the folder",
        )
    if not stat.S_ISREG(mode):
        raise UnsafeFileError("is not a regular file", file=path)
    return path


def parse_config(raw: Mapping[str, Any], *, file: Path | None = None) -> CheckpointConfig:
    """`config.json` as a mapping -> CheckpointConfig. `file` only names the source in errors."""
    model_type = raw.get("model_type")
    architectures = raw.get("architectures") or []
    architectures = architectures if isinstance(architectures, list) else [architectures]
    if model_type == "kimi_k3" or any(name in str(a) for a in architectures for name in K3_NAMES):
        raise UnsupportedArchitectureError(
            "Kimi K3 is another architecture (KDA layers, MXFP4) and is not supported",
            file=file,
        )
    vision = None
    prefix = ""
    notices: list[str] = []
    text_raw: Mapping[str, Any] = raw
    if model_type in ("kimi_k25", "kimi_k2_5"):
        text_raw = mapping(raw.get("text_config"), "text_config", file)
        if not text_raw:
            raise ConfigError("has model_type kimi_k25 and no text_config", file=file)
        if text_raw.get("model_type", "kimi_k2") not in TEXT_MODEL_TYPES:
            raise UnsupportedArchitectureError(
                f"the text model of this kimi_k25 is {text_raw['model_type']!r}, not a Kimi K2",
                file=file,
            )
        vision = mapping(raw.get("vision_config"), "vision_config", file) or None
        prefix = "language_model."
        notices = check_fields(raw, {**TEXT, **TOP}, "", file)
        check_repeated(raw, text_raw, file)
        check_architectures(raw.get("architectures"), file)
    elif model_type not in TEXT_MODEL_TYPES:
        raise UnsupportedArchitectureError(
            f"model_type {model_type!r} is not of the Kimi K2 family",
            file=file,
            remedy="Perilune reads model types kimi_k2, deepseek_v3 and kimi_k25",
        )
    notices += check_fields(text_raw, TEXT, "text_config" if prefix else "", file)
    check_architectures(text_raw.get("architectures"), file)
    check_agreements(text_raw, file)
    text = _text_config(text_raw, file, notices)
    if vision is not None:
        notices += parse_vision(
            vision, top=raw, text_hidden_size=text.hidden_size, vocab_size=text.vocab_size,
            file=file,
        )[1]  # fmt: skip
    places = (text_raw.get("quantization_config"), raw.get("quantization_config"))
    quantization = next((each for each in places if each is not None and each != {}), None)
    storage = read_quantization(mapping(quantization, "quantization_config", file), file)
    eos = _ids(text_raw.get("eos_token_id"), file) + _ids(raw.get("eos_token_id"), file)
    if prefix:
        family = Family.K25
    elif text.rms_norm_eps in (1e-6, 1e-5):
        # What tells the published ones apart in every storage format: K2 has 1e-6.
        family = Family.K2 if text.rms_norm_eps == 1e-6 else Family.K2_THINKING
    else:
        thinks = storage.name == "int4" or IM_END_ID in eos
        family = Family.K2_THINKING if thinks else Family.K2
    # A small vocabulary (tests, nano) has no ids of the published range.
    stops = tuple(i for i in (*eos, EOS_ID, IM_END_ID) if i < text.vocab_size)
    return CheckpointConfig(
        text=text,
        family=family,
        storage=storage,
        tensor_prefix=prefix,
        vision=vision,
        eos_token_ids=tuple(dict.fromkeys(stops)),
        raw=raw,
        notices=tuple(dict.fromkeys(notices)),
    )


def _text_config(raw: Mapping[str, Any], file: Path | None, notices: list[str]) -> ModelConfig:
    values: dict[str, Any] = {}
    for f in fields(ModelConfig):
        if f.name in ("rope", "lora_norm_eps"):
            continue
        if f.name in raw:
            values[f.name] = raw[f.name]
        elif f.name != "tie_word_embeddings":  # other software has other defaults for the rest
            raise ConfigError(f"the field {f.name!r} is missing", file=file)
    for name, value in values.items():
        expected = ModelConfig.__dataclass_fields__[name].type
        if expected == "int" and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"{name} must be an integer, not {value!r}", file=file)
        if expected == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{name} must be a number, not {value!r}", file=file)
        if expected == "bool" and not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, not {value!r}", file=file)
        if expected == "float" and not math.isfinite(value):
            raise ConfigError(f"{name} must be finite, not {value!r}", file=file)
        if expected == "int" and not 0 <= value <= MAX_SIZE:
            raise ConfigError(f"{name} is {value}; no model can have that", file=file)
    positive = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank",
        "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings",
    )  # fmt: skip
    for name in positive:
        if values[name] < 1:
            raise ConfigError(f"{name} must be positive, not {values[name]}", file=file)
    rank = values.get("q_lora_rank")
    if rank is not None and (type(rank) is not int or not 1 <= rank <= MAX_SIZE):
        raise ConfigError(
            f"q_lora_rank must be a positive integer or null, not {rank!r}", file=file
        )
    if values["num_hidden_layers"] > MAX_LAYERS:
        raise ConfigError(
            f"{values['num_hidden_layers']} layers; more than {MAX_LAYERS} are refused", file=file
        )
    modules = values["num_hidden_layers"] * max(values["n_routed_experts"], 1)
    if modules > MAX_MODULES:
        raise ConfigError(
            f"{modules} experts in all layers; more than {MAX_MODULES} are refused", file=file
        )
    if values["rms_norm_eps"] < 0:
        raise ConfigError(f"rms_norm_eps must not be negative: {values['rms_norm_eps']}", file=file)
    if values["qk_rope_head_dim"] % 2:
        raise ConfigError("qk_rope_head_dim must be even", file=file)
    n_experts, top_k = values["n_routed_experts"], values["num_experts_per_tok"]
    has_moe = values["first_k_dense_replace"] < values["num_hidden_layers"]
    if has_moe and not 1 <= top_k <= n_experts:
        raise ConfigError(
            f"num_experts_per_tok is {top_k}, and there are only {n_experts} experts", file=file
        )
    config = ModelConfig(**values, rope=parse_rope(raw, file, notices))
    trained = config.rope.factor * config.rope.original_max_position_embeddings
    if config.rope.factor > 1 and config.max_position_embeddings > trained:
        notices.append(
            f"max_position_embeddings is {config.max_position_embeddings}; the rope was made for "
            f"{trained:g} tokens (factor x original_max_position_embeddings)"
        )
    if has_moe and (config.n_group < 1 or n_experts % config.n_group):
        raise ConfigError(
            f"{n_experts} experts do not divide into {config.n_group} groups", file=file
        )
    reachable = config.topk_group * n_experts // max(config.n_group, 1)
    if has_moe and not (config.topk_group <= config.n_group and top_k <= reachable):
        raise ConfigError(
            f"topk_group {config.topk_group} of {config.n_group} groups leaves {reachable} of "
            f"{n_experts} experts, num_experts_per_tok is {top_k}",
            file=file,
        )
    return config


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        return ""
    return path.read_text("utf-8", errors="replace")


def _ids(value: Any, file: Path | None) -> tuple[int, ...]:
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if not all(type(v) is int and 0 <= v <= MAX_SIZE for v in values):
        raise ConfigError(
            f"eos_token_id must be a token id or a list of them, not {str(value)[:80]}", file=file
        )
    return tuple(values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError("larger than 16 MiB; no configuration is that large", file=path)
        value = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read as JSON: {error}", file=path) from None
    if not isinstance(value, dict):
        raise ConfigError("is not a JSON object", file=path)
    return value


def fields_table() -> str:
    """What becomes of every field of `config.json`, as Markdown, for `docs/checkpoints.md`."""
    tables = dict(TABLES)
    for storage in FORMATS.values():
        tables.update(storage.config_tables)
    return tables_as_markdown(tables)
