"""The `vision_config` of a K2.5 checkpoint, typed: MoonViT and the projector behind it.

Reads two spellings: the published one (`vt_hidden_size`, `init_pos_emb_height`, ...) and that of
transformers' `Kimi_K25VisionConfig` (`hidden_size`, `pos_emb_height`, ...). No torch here.

Source: the published `config.json` of Kimi K2.5; transformers 5, `Kimi_K25VisionConfig`. What no
file says is fixed in every implementation: rotary base 10,000, at most 512 patches per side,
bicubic resampling of the learnt positions, GELU by tanh, LayerNorm eps 1e-5, biases everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from perilune.config_fields import VISION, check_fields
from perilune.errors import ConfigError

MERGE: Final = 2  # patches a side that become one token; `merge_kernel_size` is checked to be this
MOST_PATCHES_A_SIDE: Final = 512
MAX_SIZE: Final = 2**20
TRANSFORMERS_TYPE: Final = "kimi_k25_vision"
# transformers' names of the published fields; `TOP` ones stand beside `vision_config`.
ALIASES: Final = {
    "vt_hidden_size": "hidden_size",
    "vt_intermediate_size": "intermediate_size",
    "vt_num_attention_heads": "num_attention_heads",
    "vt_num_hidden_layers": "num_hidden_layers",
    "init_pos_emb_height": "pos_emb_height",
    "init_pos_emb_width": "pos_emb_width",
    "init_pos_emb_time": "pos_emb_time",
}
TOP_ALIASES: Final = {
    "mm_hidden_size": "projection_hidden_size",
    "projector_ln_eps": "projection_layer_norm_eps",
}


VISION_TEXT_WIDTH = 7168  # of the published K2.5


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """MoonViT and its projector. Field names are those of the published `vision_config`."""

    vt_hidden_size: int = 1152
    vt_intermediate_size: int = 4304
    vt_num_attention_heads: int = 16
    vt_num_hidden_layers: int = 27
    patch_size: int = 14  # pixels per side
    init_pos_emb_height: int = 64  # rows of the learnt table of positions
    init_pos_emb_width: int = 64
    init_pos_emb_time: int = 4  # most frames of one item
    projector_ln_eps: float = 1e-5
    text_hidden_size: int = VISION_TEXT_WIDTH  # width of a token that the projector gives
    # The token that stands for each vector in a prompt; None: the vocabulary has none.
    media_token_id: int | None = None

    @property
    def head_dim(self) -> int:
        return self.vt_hidden_size // self.vt_num_attention_heads

    @property
    def patch_values(self) -> int:
        """Values of one patch: three colours of patch_size x patch_size."""
        return 3 * self.patch_size**2

    @property
    def merged_size(self) -> int:
        """Width of the four patches of a token, side by side."""
        return self.vt_hidden_size * MERGE * MERGE


def parse_vision(
    raw: Mapping[str, Any],
    *,
    top: Mapping[str, Any] | None = None,
    text_hidden_size: int | None = None,
    vocab_size: int | None = None,
    file: Path | None = None,
) -> tuple[VisionConfig, list[str]]:
    """`vision_config` as a mapping -> VisionConfig, and what is to be said of unknown fields.

    `top`: the fields beside it (`media_placeholder_token_id`, transformers' projection fields).
    `text_hidden_size`, `vocab_size`: of the text network, with which it must agree. Raises
    ConfigError, UnsupportedArchitectureError.
    """
    top = top or {}
    notices = check_fields(raw, VISION, "vision_config", file, closed=True)
    values = _values(raw, top, file)
    width = values.pop("mm_hidden_size")
    text = text_hidden_size
    if "text_hidden_size" not in values:
        values["text_hidden_size"] = VISION_TEXT_WIDTH if text is None else text
    config = VisionConfig(**values, media_token_id=_media_token(top, vocab_size, file))
    if width != config.vt_hidden_size:
        raise _wrong(
            "mm_hidden_size", width, f"vt_hidden_size, {config.vt_hidden_size}: its vectors are "
            "what the projector gets", file,
        )  # fmt: skip
    if text is not None and config.text_hidden_size != text:
        raise _wrong(
            "text_hidden_size", config.text_hidden_size,
            f"hidden_size of text_config, {text}: its vectors stand among the tokens'", file,
        )  # fmt: skip
    heads = config.vt_num_attention_heads
    if config.vt_hidden_size % heads or config.head_dim % 4:
        raise _wrong(
            "vt_num_attention_heads", heads, f"a number that divides {config.vt_hidden_size} into "
            "heads of a multiple of 4 values: a pair a row and a pair a column turn together", file,
        )  # fmt: skip
    return config, notices


def _values(raw: Mapping[str, Any], top: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """The fields of VisionConfig and `mm_hidden_size`, from either spelling."""
    defaults = {f.name: f.default for f in fields(VisionConfig)}
    defaults["mm_hidden_size"] = 1152
    defaults.pop("media_token_id")
    ours = raw.get("model_type") != TRANSFORMERS_TYPE
    values: dict[str, Any] = {}
    for name, default in defaults.items():
        places = [(raw, name, "vision_config."), (raw, ALIASES.get(name), "vision_config."),
                  (top, TOP_ALIASES.get(name), "")]  # fmt: skip
        found = [(f"{at}{key}", where[key]) for where, key, at in places if key and key in where]
        if not found:
            if name == "text_hidden_size" and not ours:
                continue  # transformers takes that of the text network
            if ours:  # other software has other defaults
                raise ConfigError(f"the field 'vision_config.{name}' is missing", file=file)
            values[name] = default
            continue
        shown, value = found[0]
        for other, again in found[1:]:
            if again != value:
                raise ConfigError(f"{shown} is {value!r} and {other} is {again!r}", file=file,
                                  remedy="Keep one of the two")  # fmt: skip
        values[name] = _number(shown, value, default, file)
    return values


def _number(shown: str, value: Any, default: Any, file: Path | None) -> int | float:
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{shown} must be a number, not {value!r}", file=file)
        if not math.isfinite(value) or not 0 <= value < 1:
            raise _wrong(shown, value, "a number from 0 to below 1", file)
        return float(value)
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        raise _wrong(shown, value, f"an integer from 1 to {MAX_SIZE}", file)
    return value


def _media_token(top: Mapping[str, Any], vocab_size: int | None, file: Path | None) -> int | None:
    name, other = "media_placeholder_token_id", "image_token_id"
    given = {key: top[key] for key in (name, other) if top.get(key) is not None}
    for key, value in given.items():
        if type(value) is not int or not 0 <= value < (vocab_size or 2**31):
            raise _wrong(key, value, f"the id of a token, below {vocab_size or 2**31}", file)
    if len(set(given.values())) > 1:
        raise ConfigError(f"{name} is {given[name]} and {other} is {given[other]}", file=file)
    return next(iter(given.values()), None)


def _wrong(name: str, value: Any, wanted: str, file: Path | None) -> ConfigError:
    shown = repr(value)
    return ConfigError(f"{name} is {shown[:80]}; it must be {wanted}", file=file)
