"""How fast an engine is: tokens per second beside bytes per second and the share of the limit.

Every figure is a median over steps. The limit of decoding is the machine's memory bandwidth, read
again before each figure, because other load on a machine moves it.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass, replace
from typing import cast

import torch

from perilune.config import Family
from perilune.engine.engine import Engine
from perilune.engine.metrics import StepMetrics, device_bandwidth, machine_bandwidth
from perilune.engine.sampling_params import SamplingParams
from perilune.formats.int4 import INT4
from perilune.model.layer import DecoderLayer
from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.model.slots import named_slots
from perilune.weights.published_config import full_size
from perilune.weights.stored import StoredExperts

WARM_UP = 3  # steps that are not counted


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. `share` is of `bandwidth`; rates are a second."""

    what: str
    streams: int
    context: int  # tokens before those measured
    tokens: float
    bytes: float | None
    bandwidth: float
    share: float | None


def small_model(seed: int = 0) -> KimiK2Model:
    """The tiny K2 of our comparisons: 159 M parameters, 12 layers, 32 INT4 experts, random."""
    config = replace(
        full_size(Family.K2_THINKING, INT4).text,
        vocab_size=36_864, hidden_size=512, num_hidden_layers=12, intermediate_size=1536,
        moe_intermediate_size=192, n_routed_experts=32, num_experts_per_tok=4,
        num_attention_heads=8, q_lora_rank=256, kv_lora_rank=256, qk_nope_head_dim=64,
        qk_rope_head_dim=32, v_head_dim=64,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = KimiK2Model(config).to(torch.bfloat16)
    for layer in model.model.layers:
        mlp = cast(DecoderLayer, layer).mlp
        if isinstance(mlp, MixtureOfExperts):
            mlp.experts = StoredExperts(INT4, 32, config.hidden_size, config.moe_intermediate_size)
    model.to_empty(device="cpu")
    calm = (2 * config.num_hidden_layers) ** -0.5  # of what is added to the residual stream
    for name, tensor in named_slots(model):
        gain = calm if ".o_proj." in name or ".down_proj." in name else 1.0
        if name.endswith("weight_packed"):
            tensor.random_(-(2**31), 2**31 - 1, generator=generator)
        elif name.endswith("weight_scale"):
            # Nibbles spread by 4.6 around 0; rows of unit length on average.
            tensor.fill_(gain * (32 * tensor.shape[-1]) ** -0.5 / 4.6)
        elif name.endswith("norm.weight"):
            tensor.fill_(1)
        elif name.endswith("bias"):
            tensor.zero_()
        elif tensor.is_floating_point():
            tensor.normal_(std=gain * tensor.shape[-1] ** -0.5, generator=generator)
    return model.eval().requires_grad_(False)


def bench_decode(engine: Engine, *, streams: int = 1, context: int = 64, steps: int = 64) -> Figure:
    """`streams` answers side by side, one token each a step."""
    bandwidth = _bandwidth_now(engine)
    ids = _fill(engine, streams, context)
    metrics, seconds = _steps(engine, streams, steps)
    for request_id in ids:
        engine.cancel(request_id)
    engine.step()
    return _figure("decode", streams, context, streams / seconds, metrics, bandwidth)


def bench_prefill(engine: Engine, *, tokens: int = 512, repetitions: int = 5) -> Figure:
    """One prompt of so many tokens, new each time, to its first token."""
    bandwidth = _bandwidth_now(engine)
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        (request_id,) = _fill(engine, 1, tokens)
        seconds.append(time.perf_counter() - start)
        engine.cancel(request_id)
        engine.step()
    rate = tokens / statistics.median(seconds[1:])
    return _figure("prefill", 1, 0, rate, [], bandwidth)


def _bandwidth_now(engine: Engine) -> float:
    """Of the device that the engine computes on, measured anew."""
    machine_bandwidth.cache_clear()
    return device_bandwidth(engine.cache.storage.device)


def _fill(engine: Engine, streams: int, context: int) -> list[str]:
    """Start `streams` greedy requests of random prompts and step until all prompts are computed."""
    vocabulary = engine.config.vocab_size
    pick = random.Random(time.perf_counter_ns())  # noqa: S311 - never a prefix seen before
    params = SamplingParams(temperature=0, ignore_eos=True, speculate=False)
    ids = [
        engine.add_request([pick.randrange(vocabulary) for _ in range(context)], params)
        for _ in range(streams)
    ]
    started: set[str] = set()
    while len(started) < streams:
        started |= {output.request_id for output in engine.step()}
    return ids


def _steps(engine: Engine, streams: int, steps: int) -> tuple[list[StepMetrics], float]:
    """Metrics of `steps` decode steps and the median seconds of a whole one."""
    for _ in range(WARM_UP):
        engine.step()
    seconds = []
    metrics = []
    for _ in range(steps):
        start = time.perf_counter()
        outputs = engine.step()
        seconds.append(time.perf_counter() - start)
        assert len(outputs) == streams
        metrics.append(engine.metrics.latest_steps[-1])
    return metrics, statistics.median(seconds)


def _figure(
    what: str,
    streams: int,
    context: int,
    tokens: float,
    metrics: list[StepMetrics],
    bandwidth: float,
) -> Figure:
    rates = [m.bytes_per_second for m in metrics if m.bytes_per_second is not None]
    rate = statistics.median(rates) if rates else None
    return Figure(
        what, streams, context, tokens, rate, bandwidth, None if rate is None else rate / bandwidth
    )
