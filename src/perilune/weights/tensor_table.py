"""Which tensors a checkpoint must hold: name -> dtype and shape, for any configuration and format.

The one table that reader, verifier, writer, converter and `models show` share. No torch here.
Sources: the published tensor listings of Kimi-K2-Instruct (FP8, 139,644 tensors) and Kimi-K2.5
(INT4, 208,550 tensors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from perilune.config import MAX_LAYERS, CheckpointConfig, Family, ModelConfig
from perilune.errors import ConfigError
from perilune.formats import FORMATS, Part, Role, StorageFormat
from perilune.weights.header import DTYPE_BYTES, tensor_bytes

FLOATS = frozenset({"BF16", "F16", "F32"})
_VISION = re.compile(r"(vision_tower|mm_projector)\.")
# Present in published files, of no use to anyone: tables that are computed from the configuration,
# and scales left behind by a conversion from FP8.
_IGNORED = re.compile(r"\.(rotary_emb\.inv_freq|[qkv]_scale|input_scale)$")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor as it must lie on disk. `dtype` is safetensors' name of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    part: Part
    role: Role = Role.PLAIN
    matrix: tuple[int, int] | None = None
    """(out, in) of the weight that a tensor of a stored format belongs to."""

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)

    @property
    def numel(self) -> int:
        return self.nbytes // DTYPE_BYTES[self.dtype]

    @property
    def is_plain(self) -> bool:
        """Not of a quantised weight. Plain tensors are read from any floating-point dtype."""
        return self.role is Role.PLAIN

    @property
    def is_scale(self) -> bool:
        """A factor of a quantised weight: it must be finite."""
        return self.role is Role.SCALE

    def accepts(self, dtype: str) -> bool:
        """Whether a file may hold it in `dtype`. Other tools write `weight_shape` in 64 bits."""
        if self.role is Role.SHAPE:
            return dtype in ("I32", "I64")
        return dtype == self.dtype or (self.is_plain and dtype in FLOATS)


def expected_tensors(config: CheckpointConfig) -> Iterator[TensorSpec]:
    """Every tensor of a checkpoint, in the order of the network, vision last.

    Raises ConfigError where the sizes do not divide into the groups of the storage format, and
    for a vision tower of more layers than any can have.
    """
    prefix, text = config.tensor_prefix, config.text
    yield _plain(f"{prefix}model.embed_tokens", text.vocab_size, text.hidden_size, Part.EMBEDDING)
    for layer in range(text.num_hidden_layers):
        yield from _layer(config, layer, f"{prefix}model.layers.{layer}.")
    yield TensorSpec(f"{prefix}model.norm.weight", "BF16", (text.hidden_size,), Part.NORM)
    if not text.tie_word_embeddings:
        sizes = text.vocab_size, text.hidden_size
        yield from _linear(config, f"{prefix}lm_head", *sizes, Part.LM_HEAD)
    if config.vision is not None:
        yield from _vision(config)


def is_vision(name: str) -> bool:
    """A tensor of the vision tower or its projector."""
    return _VISION.match(name) is not None


def stored_name(name: str, prefix: str) -> str:
    """Name in the files of a tensor of the model: K2.5 puts `prefix` before those of the text."""
    return name if is_vision(name) else prefix + name


def is_ignored(name: str, storage: StorageFormat) -> bool:
    """A tensor that published files or conversions carry and that nothing reads."""
    if _IGNORED.search(name):
        return True
    suffix = name.rpartition(".")[2]
    return suffix not in storage.roles and any(
        suffix in each.leftovers for each in FORMATS.values()
    )


def text_parameters(config: ModelConfig) -> int:
    """All parameters of the text network, whatever their storage (full-size K2: 1.026e12)."""
    return sum(spec.numel for spec in _as_bf16(config))


def active_parameters(config: ModelConfig) -> tuple[int, int]:
    """Parameters that one token uses: (with both embeddings, without the lookup table).

    Full-size K2: 32,861,500,928 and 31,687,095,808.
    """
    total = sum(
        spec.numel * config.num_experts_per_tok // config.n_routed_experts
        if spec.part is Part.ROUTED_EXPERTS
        else spec.numel
        for spec in _as_bf16(config)
    )
    return total, total - config.vocab_size * config.hidden_size


def _as_bf16(config: ModelConfig) -> Iterator[TensorSpec]:
    """One spec a parameter tensor, the experts of a layer as one (a count needs no names)."""
    checkpoint = CheckpointConfig(config, Family.K2)
    for spec in expected_tensors(checkpoint):
        if spec.part is not Part.ROUTED_EXPERTS:
            yield spec
    moe_layers = sum(config.is_moe_layer(i) for i in range(config.num_hidden_layers))
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    if moe_layers:
        shape = (moe_layers, config.n_routed_experts, expert)
        yield TensorSpec("experts", "BF16", shape, Part.ROUTED_EXPERTS)


def _layer(config: CheckpointConfig, layer: int, prefix: str) -> Iterator[TensorSpec]:
    text = config.text
    hidden, heads, rank = text.hidden_size, text.num_attention_heads, text.kv_lora_rank
    yield TensorSpec(f"{prefix}input_layernorm.weight", "BF16", (hidden,), Part.NORM)
    attention = f"{prefix}self_attn."
    if text.q_lora_rank is None:
        yield from _linear(
            config, f"{attention}q_proj", heads * text.qk_head_dim, hidden, Part.ATTENTION
        )
    else:
        q_rank = text.q_lora_rank
        yield from _linear(config, f"{attention}q_a_proj", q_rank, hidden, Part.ATTENTION)
        yield TensorSpec(f"{attention}q_a_layernorm.weight", "BF16", (q_rank,), Part.NORM)
        yield from _linear(
            config, f"{attention}q_b_proj", heads * text.qk_head_dim, q_rank, Part.ATTENTION
        )
    yield from _linear(
        config, f"{attention}kv_a_proj_with_mqa", text.latent_dim, hidden, Part.ATTENTION
    )
    yield TensorSpec(f"{attention}kv_a_layernorm.weight", "BF16", (rank,), Part.NORM)
    up = heads * (text.qk_nope_head_dim + text.v_head_dim)
    yield from _linear(config, f"{attention}kv_b_proj", up, rank, Part.ATTENTION)
    yield from _linear(
        config, f"{attention}o_proj", hidden, heads * text.v_head_dim, Part.ATTENTION
    )
    yield TensorSpec(f"{prefix}post_attention_layernorm.weight", "BF16", (hidden,), Part.NORM)
    mlp = f"{prefix}mlp."
    if not text.is_moe_layer(layer):
        yield from _mlp(config, mlp, text.intermediate_size, Part.DENSE_MLP)
        return
    experts = text.n_routed_experts
    yield _plain(f"{mlp}gate", experts, hidden, Part.ROUTER)
    yield TensorSpec(f"{mlp}gate.e_score_correction_bias", "F32", (experts,), Part.ROUTER)
    for expert in range(experts):
        yield from _mlp(
            config, f"{mlp}experts.{expert}.", text.moe_intermediate_size, Part.ROUTED_EXPERTS
        )
    shared = text.moe_intermediate_size * text.n_shared_experts
    yield from _mlp(config, f"{mlp}shared_experts.", shared, Part.SHARED_EXPERTS)


def _mlp(config: CheckpointConfig, prefix: str, width: int, part: Part) -> Iterator[TensorSpec]:
    hidden = config.text.hidden_size
    yield from _linear(config, f"{prefix}gate_proj", width, hidden, part)
    yield from _linear(config, f"{prefix}up_proj", width, hidden, part)
    yield from _linear(config, f"{prefix}down_proj", hidden, width, part)


def _linear(
    config: CheckpointConfig, name: str, rows: int, columns: int, part: Part
) -> Iterator[TensorSpec]:
    """A projection as the storage format of the checkpoint has it."""
    storage = config.storage
    if not storage.covers(name.rpartition(".")[2], part):
        yield _plain(name, rows, columns, part)
        return
    try:
        layout = storage.matrix_tensors(rows, columns)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    for each in layout:
        full = f"{name}.{each.suffix}"
        yield TensorSpec(full, each.dtype, each.shape, part, each.role, (rows, columns))


def _plain(name: str, rows: int, columns: int, part: Part) -> TensorSpec:
    return TensorSpec(f"{name}.weight", "BF16", (rows, columns), part)


def _vision(config: CheckpointConfig) -> Iterator[TensorSpec]:
    """MoonViT and its projector: bfloat16 in every storage format."""
    vision = config.vision_config
    if vision is None:
        return
    width, inner, blocks = (
        vision.vt_hidden_size, vision.vt_intermediate_size, vision.vt_num_hidden_layers,
    )  # fmt: skip
    rows, columns = vision.init_pos_emb_height, vision.init_pos_emb_width
    patch, merged = vision.patch_size, vision.merged_size
    if blocks > MAX_LAYERS:
        raise ConfigError(f"{blocks} vision layers; more than {MAX_LAYERS} are refused")
    shapes: dict[str, tuple[int, ...]] = {
        "vision_tower.patch_embed.proj": (width, 3, patch, patch),
        "vision_tower.patch_embed.pos_emb": (rows, columns, width),
    }
    for block in range(blocks):
        prefix = f"vision_tower.encoder.blocks.{block}."
        shapes |= {
            f"{prefix}norm0": (width,),
            f"{prefix}norm1": (width,),
            f"{prefix}wqkv": (3 * width, width),
            f"{prefix}wo": (width, width),
            f"{prefix}mlp.fc0": (inner, width),
            f"{prefix}mlp.fc1": (width, inner),
        }
    shapes |= {
        "vision_tower.encoder.final_layernorm": (width,),
        "mm_projector.pre_norm": (width,),
        "mm_projector.proj.0": (merged, merged),
        "mm_projector.proj.2": (vision.text_hidden_size, merged),
    }
    for name, shape in shapes.items():
        yield TensorSpec(f"{name}.weight", "BF16", shape, Part.VISION)
        if not name.endswith("pos_emb"):
            yield TensorSpec(f"{name}.bias", "BF16", shape[:1], Part.VISION)
