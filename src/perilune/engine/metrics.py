"""What a step read and how close that is to what the machine can read.

Decoding is bound by reading weights and latents, so tokens a second say little without the bytes
a second beside them and the machine's own limit, which is measured once.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn

from perilune.config import ModelConfig
from perilune.engine.request import RequestMetrics
from perilune.kernels import native
from perilune.model.experts import RoutedExperts

BANDWIDTH_MEBIBYTES = 256  # more than any cache


@dataclass(frozen=True, slots=True)
class ReadCost:
    """Bytes that one step must read from memory, by what is in it."""

    fixed: int  # attention, shared experts, dense layers, router, head: once a step
    expert: float  # one routed expert of one layer
    moe_layers: int
    experts: int
    top_k: int
    latent: int  # one token of context, all layers

    @classmethod
    def of(
        cls,
        model: nn.Module,
        config: ModelConfig,
        latent_bytes: int,
        dense_bits: float | None = None,
    ) -> ReadCost:
        """From the tensors that the model holds. The embedding table is not read, but for rows.

        `dense_bits`: of a value of the matrices outside the experts, where they will be quantised.
        The router, which will not be, is a hundredth of them.
        """
        routed = [m for m in model.modules() if isinstance(m, RoutedExperts)]
        routed_bytes = sum(map(_bytes, routed))
        embedding = model.get_submodule("model.embed_tokens")
        table = 0 if config.tie_word_embeddings else _bytes(embedding, dense_bits)
        experts = max(1, config.n_routed_experts)
        towers = ("vision_tower", "mm_projector")  # read for a picture, never for a token
        seen = sum(_bytes(m, dense_bits) for name, m in model.named_children() if name in towers)
        return cls(
            fixed=_bytes(model, dense_bits) - routed_bytes - table - seen,
            expert=routed_bytes / (experts * max(1, len(routed))),
            moe_layers=len(routed),
            experts=experts,
            top_k=config.num_experts_per_tok,
            latent=latent_bytes,
        )

    def distinct_experts(self, rows: int) -> float:
        """Experts of a layer that `rows` tokens touch, expected under uniform routing."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** rows)

    def step(self, rows: int, context_tokens: int) -> int:
        """Bytes of a step of `rows` rows whose sequences have `context_tokens` in sum."""
        experts = self.moe_layers * self.distinct_experts(rows) * self.expert
        return round(self.fixed + experts + context_tokens * self.latent)


def _bytes(module: nn.Module, matrix_bits: float | None = None) -> int:
    """Of all tensors; `matrix_bits`: of a value of those with two dimensions, unlike experts."""
    tensors = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers())}
    return sum(
        t.nbytes if matrix_bits is None or t.dim() != 2 else round(t.numel() * matrix_bits / 8)
        for t in tensors.values()
    )


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One step: what was in it, what it had to read (bytes), how long the forward took."""

    rows: int
    sequences: int
    draft_rows: int
    forward_seconds: float
    bytes_read: int | None = None
    bandwidth: float | None = None  # bytes a second that the machine can read

    @property
    def bytes_per_second(self) -> float | None:
        return None if self.bytes_read is None else self.bytes_read / self.forward_seconds

    @property
    def share_of_bandwidth(self) -> float | None:
        """How close the forward came to the machine's limit, 0 to 1."""
        rate = self.bytes_per_second
        return None if rate is None or self.bandwidth is None else rate / self.bandwidth


@dataclass(slots=True)
class EncoderMetrics:
    """What pictures took since the start. A clip counts once for each of its items.

    A picture of a request that begins is one of three: `reused`, its place in the prompt was found
    computed in the prefix cache, so that its rows are not needed; a hit, its rows are in the
    encoder cache; a miss. A miss is decoded and encoded, once for all that wait for it.
    """

    decoded: int = 0
    encoded: int = 0
    seconds: float = 0.0  # in the tower
    reused: int = 0
    hits: int = 0
    misses: int = 0
    cache_bytes: int = 0
    cache_entries: int = 0


@dataclass(slots=True)
class EngineMetrics:
    """Sums since the start, and the latest steps and requests."""

    steps: int = 0
    seconds: float = 0.0  # in steps, sampling included
    forward_seconds: float = 0.0
    bytes_read: int = 0  # by the forwards
    requests: int = 0  # finished
    latest_steps: deque[StepMetrics] = field(default_factory=lambda: deque(maxlen=256))
    latest_requests: deque[RequestMetrics] = field(default_factory=lambda: deque(maxlen=256))

    def note_step(self, step: StepMetrics, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        self.forward_seconds += step.forward_seconds
        self.bytes_read += step.bytes_read or 0
        self.latest_steps.append(step)

    def note_request(self, request: RequestMetrics) -> None:
        self.requests += 1
        self.latest_requests.append(request)


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """How an engine stands: its queues, its pages, its latest step, and sums since its start."""

    waiting: int
    running: int
    pages_held: int
    pages_idle: int  # held by nobody, content known to the prefix cache
    pages_free: int
    steps: int
    latest_step: StepMetrics | None = None
    forward_seconds: float = 0.0
    bytes_read: int = 0
    pictures_decoded: int = 0  # these: see `EncoderMetrics`
    pictures_encoded: int = 0
    pictures_reused: int = 0
    encoder_seconds: float = 0.0
    encoder_cache_hits: int = 0
    encoder_cache_misses: int = 0
    encoder_cache_bytes: int = 0
    encoder_cache_entries: int = 0


@cache
def machine_bandwidth() -> float:
    """Bytes a second that all threads read from memory together; measured once a process."""
    if native.available():
        return native.read_bandwidth(mebibytes=BANDWIDTH_MEBIBYTES)
    return _sum_bandwidth(torch.device("cpu"))


def device_bandwidth(device: torch.device) -> float:
    """Bytes a second that a step on `device` can read."""
    return machine_bandwidth() if device.type == "cpu" else _sum_bandwidth(device)


def _sum_bandwidth(device: torch.device) -> float:
    """By sums of a buffer, in float32: not every device has wider ones."""
    buffer = torch.ones(BANDWIDTH_MEBIBYTES << 18, dtype=torch.float32, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        buffer.sum().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return buffer.nbytes / sorted(seconds)[2]
