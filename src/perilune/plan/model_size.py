"""What a model needs, counted by the code of `models show` from its configuration alone."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import perilune
from perilune.config import CheckpointConfig, Family, ModelConfig, parse_config
from perilune.errors import UsageError
from perilune.formats import Part, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.plan.reading import DATA
from perilune.weights.checkpoint import stored_config
from perilune.weights.describe import Description, describe
from perilune.weights.published_config import full_size

LATENT_BITS = 16
DENSE_BITS = {"int8": 8.5, "int4": 4.5}  # of a value quantised at load, its scale included
_DENSE = (Part.ATTENTION, Part.DENSE_MLP, Part.SHARED_EXPERTS, Part.LM_HEAD)


def _deepseek_v3() -> CheckpointConfig:
    file = DATA / "deepseek-v3.json"
    return parse_config(json.loads(file.read_text("utf-8")), file=file)


def _published(family: Family, storage: StorageFormat) -> Callable[[], CheckpointConfig]:
    return lambda: full_size(family, storage)


_K25 = _published(Family.K25, INT4)

NAMED: dict[str, Callable[[], CheckpointConfig]] = {
    "k2": _published(Family.K2, FP8),
    "k2-thinking": _published(Family.K2_THINKING, INT4),
    "k2.5": _K25,
    "k2.6": _K25,  # K2.5's architecture, unchanged
    "k2.7-code": _K25,
    "deepseek-v3": _deepseek_v3,  # R1 and V3.1 are the same network
    "nano": lambda: stored_config(Path(perilune.__file__).parent / "assets" / "nano"),
}
"""Models that can be planned for by name; their published configurations are in the package."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes by part, and what a step of decoding reads.

    stored: every byte of the files (the engine's memory plan counts these). fixed: read once a
    step whatever is in it. expert: one routed expert of one layer. latent: of the cache, one token.
    """

    name: str
    text: ModelConfig
    storage: str
    parts: dict[Part, int]
    fixed: float
    expert: float
    moe_layers: int
    active_parameters: int  # a token, without the embedding table
    latent: float

    @property
    def stored(self) -> int:
        return sum(self.parts.values())

    @property
    def experts_stored(self) -> int:
        return self.parts.get(Part.ROUTED_EXPERTS, 0)

    @property
    def trunk(self) -> int:
        """Everything but the routed experts."""
        return self.stored - self.experts_stored

    @property
    def one_token(self) -> float:
        """Routed experts that one token reads."""
        return self.moe_layers * self.text.num_experts_per_tok * self.expert

    def experts_read(self, rows: float) -> float:
        """Bytes of the distinct experts that `rows` tokens touch under uniform routing."""
        experts = max(1, self.text.n_routed_experts)
        distinct = experts * (1 - (1 - self.text.num_experts_per_tok / experts) ** rows)
        return float(self.moe_layers * distinct * self.expert)

    def operations(self, tokens: float, context: float = 0.0) -> float:
        """Of `tokens` tokens with `context` tokens of each before them: 2 a weight, attention."""
        heads = self.text.num_attention_heads
        attention = 2 * heads * (self.text.qk_head_dim + self.text.v_head_dim)
        per_token = 2 * self.active_parameters
        return tokens * (per_token + self.text.num_hidden_layers * attention * context)

    def with_latent_bits(self, bits: float) -> ModelSize:
        """The cache in 8 bits per value, as some engines hold it."""
        return replace(self, latent=self.latent * bits / LATENT_BITS)

    def with_dense(self, kind: str) -> ModelSize:
        """Attention, shared experts, head quantised at load: read smaller; stored as before."""
        if kind not in DENSE_BITS:
            raise UsageError(
                f"there is no dense format {kind!r}", remedy=f"One of: {', '.join(DENSE_BITS)}"
            )
        if self.storage not in ("int4", "bf16"):
            raise UsageError(f"dense layers of {self.storage} weights are not quantised at load")
        saved = sum(self.parts.get(part, 0) for part in _DENSE) * (1 - DENSE_BITS[kind] / 16)
        return replace(self, fixed=self.fixed - saved)


def named_model(name: str) -> ModelSize:
    """A model of `NAMED`, or a checkpoint folder (config.json is enough).

    Raises UsageError for neither, ConfigError for a folder whose configuration cannot be read.
    """
    if name in NAMED:
        return replace(_counted(NAMED[name]), name=name)
    if Path(name).exists():
        return model_size(Path(name).name, stored_config(name))
    near = difflib.get_close_matches(name, NAMED, 3, 0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"model {name!r} is neither known nor a folder",
        remedy=f"{hint}Known: {', '.join(NAMED)}; or a folder with a config.json",
    )


def model_size(name: str, config: CheckpointConfig) -> ModelSize:
    """Counted from a configuration. Raises ConfigError where its sizes do not fit its format.

    Every figure is linear in the number of experts, and a K2 has 23,040 of them: two counts of the
    same network with few give what `describe` says of all, in a twentieth of the time.
    """
    few = config.text.num_experts_per_tok
    if config.text.n_routed_experts <= 4 * few:
        return _size(name, config, describe(config), None)
    return _size(name, config, _with_experts(config, few), _with_experts(config, few + 1))


def _with_experts(config: CheckpointConfig, experts: int) -> Description:
    return describe(replace(config, text=replace(config.text, n_routed_experts=experts)))


def model_at_bits(name: str, bits: float) -> ModelSize:
    """A named model with every weight in `bits` bits, scales included: what GGUF files come to."""
    if not 0.5 <= bits <= 32:
        raise UsageError(f"{bits:g} bits per weight are out of range", remedy="Give 0.5 to 32")
    if name not in NAMED:
        raise UsageError(f"bits are for the models known by name: {', '.join(NAMED)}")
    size = replace(_in_bf16(NAMED[name]), name=name)
    factor = bits / 16
    return replace(
        size,
        storage=f"{bits:g} bits per weight",
        parts={part: round(count * factor) for part, count in size.parts.items()},
        fixed=size.fixed * factor,
        expert=size.expert * factor,
    )


@cache
def _counted(make: Callable[[], CheckpointConfig]) -> ModelSize:
    return model_size("", make())


@cache
def _in_bf16(make: Callable[[], CheckpointConfig]) -> ModelSize:
    return model_size("", replace(make(), storage=BF16, vision=None))


def _size(
    name: str, config: CheckpointConfig, what: Description, next_one: Description | None
) -> ModelSize:
    """`what`: of the network, or with as many experts as a token uses; then `next_one` has one
    more.
    """
    text = config.text
    more = text.n_routed_experts - text.num_experts_per_tok if next_one is not None else 0
    other = next_one or what

    def extended(first: int, second: int) -> int:
        return first + (second - first) * more

    parts: dict[Part, int] = {}
    fixed = 0
    for part, grown in zip(what.parts, other.parts, strict=True):
        parts[part.part] = extended(part.stored, grown.stored)
        if part.part is not Part.ROUTED_EXPERTS:
            fixed += extended(part.per_token, grown.per_token)
    moe_layers = sum(text.is_moe_layer(layer) for layer in range(text.num_hidden_layers))
    routed = parts.get(Part.ROUTED_EXPERTS, 0)
    return ModelSize(
        name=name,
        text=text,
        storage=config.storage.name,
        parts=parts,
        fixed=fixed,
        expert=routed / (moe_layers * text.n_routed_experts) if routed else 0.0,
        moe_layers=moe_layers if routed else 0,
        active_parameters=extended(what.active_without_lookup, other.active_without_lookup),
        latent=what.latent_per_token,
    )
