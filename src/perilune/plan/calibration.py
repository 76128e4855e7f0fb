"""What the engine reaches on this machine: a few small models of the family's shape, decoded.

Three random models that are none of those anybody plans for: two narrow ones that differ in the
number of layers give the fixed time of a step and of a layer; a wide one, larger than any cache,
gives the share of the bandwidth, and its prompt the rate of arithmetic. About 20 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch

from perilune.config import Family, ModelConfig
from perilune.engine.bench import bench_decode, bench_prefill
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.metrics import ReadCost, machine_bandwidth
from perilune.formats.int4 import INT4
from perilune.kernels import native
from perilune.model.layer import DecoderLayer
from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.model.slots import named_slots
from perilune.plan.efficiency import Efficiency
from perilune.plan.model_size import ModelSize
from perilune.weights.published_config import full_size
from perilune.weights.stored import StoredExperts
from perilune.weights.tensor_table import active_parameters

STEPS = 24
PROMPT = 128
CONTEXT = 32
CACHED = 8  # MiB read from the processor's caches, as a small model's weights are
SMALL = 24e6  # bytes per token below which weights stay in the caches
LOW, HIGH = 0.75, 1.2  # what the same machine did from one minute to the next


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured here. Rates per second; `share` of the bandwidth; seconds of a step and a layer."""

    bandwidth: float
    cached_bandwidth: float
    share: float
    fixed: float
    fixed_layer: float
    operations: float

    def for_bytes(self, model: ModelSize) -> Calibration:
        """With the bandwidth of the caches where a token's weights fit into them."""
        if model.fixed + model.one_token > SMALL:
            return self
        return replace(self, bandwidth=self.cached_bandwidth)

    def efficiency(self) -> Efficiency:
        """As the planner's other kinds of engines."""
        return Efficiency(
            name="this",
            title="Perilune's engine, measured on this machine",
            share=self.share,
            latent_share=self.share,
            disk_share=0.0,
            fixed=self.fixed,
            low=LOW,
            high=HIGH,
            joined=False,
            copied=False,
            chunk=EngineOptions().max_batch_tokens,
            free=(),
            fit=(),
            source="measured just now by decoding three random models",
            date="today",
            fixed_layer=self.fixed_layer,
        )


def calibrate() -> Calibration:
    """Measure. Other load on the machine is measured with it."""
    bandwidth = _bandwidth(256)
    cached = max(_bandwidth(CACHED), bandwidth)
    few, few_bytes, _ = _timed(*_engine(narrow(2)))
    many, many_bytes, _ = _timed(*_engine(narrow(10)))
    per_layer = max((many - few - (many_bytes - few_bytes) / cached) / 8, 0.0)
    fixed = max(few - 2 * per_layer - few_bytes / cached, 0.0)
    engine, read = _engine(wide())
    seconds, _, limit = _timed(engine, read)
    # Against the bandwidth of the same seconds: other load moves both.
    spent = seconds - fixed - wide_config().num_hidden_layers * per_layer
    share = min(max(read / max(spent, 1e-9) / limit, 0.05), 1.2)
    prompt = bench_prefill(engine, tokens=PROMPT, repetitions=2)
    operations = prompt.tokens * 2 * _active(wide_config())
    return Calibration(bandwidth, cached, share, fixed, per_layer, operations)


def narrow_config(layers: int) -> ModelConfig:
    """A narrow network of so many layers: its weights stay in the processor's caches."""
    return _config(vocab=1024, hidden=256, layers=layers, width=128, experts=8, top_k=2)


def wide_config() -> ModelConfig:
    """A network whose weights no cache holds."""
    return _config(vocab=8192, hidden=2048, layers=3, width=1024, experts=24, top_k=8)


def narrow(layers: int) -> KimiK2Model:
    return _random(narrow_config(layers))


def wide() -> KimiK2Model:
    return _random(wide_config())


def _config(
    *, vocab: int, hidden: int, layers: int, width: int, experts: int, top_k: int
) -> ModelConfig:
    return replace(
        full_size(Family.K2_THINKING, INT4).text,
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers,
        intermediate_size=3 * width, moe_intermediate_size=width, n_routed_experts=experts,
        num_experts_per_tok=top_k, num_attention_heads=8, q_lora_rank=256, kv_lora_rank=128,
        qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, max_position_embeddings=4096,
    )  # fmt: skip


def _random(config: ModelConfig) -> KimiK2Model:
    """Random weights in the published INT4 layout. The numbers do not matter, their size does."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        model = KimiK2Model(config).to(torch.bfloat16)
    for layer in model.model.layers:
        mlp = cast(DecoderLayer, layer).mlp
        if isinstance(mlp, MixtureOfExperts):
            mlp.experts = StoredExperts(
                INT4, config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
            )
    model.to_empty(device="cpu")
    for name, tensor in named_slots(model):
        if name.endswith("weight_packed"):
            tensor.random_(-(2**31), 2**31 - 1, generator=generator)
        elif name.endswith("weight_scale"):
            tensor.fill_((32 * tensor.shape[-1]) ** -0.5 / 4.6)
        elif name.endswith("norm.weight"):
            tensor.fill_(1)
        elif name.endswith("bias"):
            tensor.zero_()
        elif tensor.is_floating_point():
            tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=generator)
    return model.eval().requires_grad_(False)


def _engine(model: KimiK2Model) -> tuple[Engine, float]:
    """An engine, and the bytes that a step of it reads by the engine's own count."""
    config = model.config
    latent = 2 * config.num_hidden_layers * config.latent_dim
    read = ReadCost.of(model, config, latent).step(1, CONTEXT)
    options = EngineOptions(cache_tokens=4 * PROMPT, speculative_tokens=0)
    return load_engine(model, options), read


def _timed(engine: Engine, read: float) -> tuple[float, float, float]:
    """Seconds of a step, bytes that it reads, and the bandwidth measured before it."""
    figure = bench_decode(engine, context=CONTEXT, steps=STEPS)
    return 1 / figure.tokens, read, figure.bandwidth


def _bandwidth(mebibytes: int) -> float:
    if native.available():
        return native.read_bandwidth(mebibytes=mebibytes, repetitions=15)
    return machine_bandwidth()


def _active(config: ModelConfig) -> int:
    return active_parameters(config)[1]
