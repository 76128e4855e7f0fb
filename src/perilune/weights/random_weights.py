"""Random checkpoints in the exact on-disk layout, for tests and benchmarks.

Every value is a function of (seed, tensor name, place) alone, by integer arithmetic: the same on
every machine, whatever the number of layers and the order of writing. Scales are chosen so that
activations stay of order one through the layers and logits spread.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perilune.config import CheckpointConfig, Family
from perilune.errors import UsageError
from perilune.formats import Role, StorageFormat
from perilune.weights.header import DTYPE_BYTES
from perilune.weights.published_config import full_size
from perilune.weights.reader import TORCH_DTYPES, tensor_memory
from perilune.weights.tensor_table import TensorSpec, is_vision

PIECE = 2**18  # values made at a time: what fits into a cache
TINY_VOCABULARY = 768
_BLOCK = 2**15  # random words mixed at a time: what fits into a core's cache
_GOLDEN = 0x9E3779B97F4A7C15
_TRIANGLE_STD = math.sqrt((256**2 - 1) / 6)  # of the sum of two bytes


def random_config(
    family: Family,
    storage: StorageFormat,
    scale: Literal["tiny", "slice"],
    *,
    layers: int | None = None,
    experts: int | None = None,
) -> CheckpointConfig:
    """Configuration of a random checkpoint.

    `tiny`: a few layers of toy width, loads in a moment. `slice`: every layer at its real size
    (one MoE layer of INT4 has 9.6 GB), few of them, dense first. `experts` overrides the number
    of routed experts per layer.
    """
    config = full_size(family, storage)
    text = config.text
    vision: dict[str, Any] | None = dict(config.vision) if config.vision else None
    if scale == "tiny":
        text = replace(
            text, vocab_size=TINY_VOCABULARY, hidden_size=128, num_hidden_layers=3,
            intermediate_size=192, moe_intermediate_size=64, n_routed_experts=16,
            num_experts_per_tok=4, num_attention_heads=4, q_lora_rank=96, kv_lora_rank=64,
            qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
        )  # fmt: skip
        if vision:
            vision |= {
                "vt_hidden_size": 32, "vt_intermediate_size": 48, "vt_num_attention_heads": 2,
                "mm_hidden_size": 32, "text_hidden_size": 128, "init_pos_emb_height": 8,
                "init_pos_emb_width": 8, "vt_num_hidden_layers": 2,
            }  # fmt: skip
    else:
        text = replace(text, num_hidden_layers=2)
        if vision:
            vision["vt_num_hidden_layers"] = 1
    if layers is not None:
        if not 1 <= layers <= 61:
            raise UsageError(f"{layers} layers are out of range; the family has 1 to 61")
        text = replace(text, num_hidden_layers=layers)
    if experts is not None:
        if not text.num_experts_per_tok <= experts <= 384:
            raise UsageError(
                f"{experts} experts are out of range; give {text.num_experts_per_tok} to 384"
            )
        text = replace(text, n_routed_experts=experts)
    return replace(config, text=text, vision=vision)


class RandomWeights:
    """The bytes of any tensor of a checkpoint; `produce` of `write_checkpoint`."""

    def __init__(self, seed: int, config: CheckpointConfig) -> None:
        self.seed = seed
        self.prefix = config.tensor_prefix
        self.storage = config.storage

    def __call__(self, spec: TensorSpec) -> Iterator[memoryview]:
        """Pieces of at most PIECE values, in order."""
        if spec.role is Role.SHAPE:
            yield tensor_memory(torch.tensor(spec.matrix, dtype=TORCH_DTYPES[spec.dtype]))
            return
        for begin in range(0, spec.numel, PIECE):
            count = min(PIECE, spec.numel - begin)
            yield tensor_memory(self._piece(spec, begin, count))

    def tensor(self, spec: TensorSpec) -> Tensor:
        """A whole tensor, for tests."""
        data = bytearray().join(self(spec))
        return torch.frombuffer(data, dtype=TORCH_DTYPES[spec.dtype]).view(spec.shape)

    def _piece(self, spec: TensorSpec, begin: int, count: int) -> Tensor:
        name = spec.name.removeprefix(self.prefix)
        if spec.role is Role.VALUES:
            size = DTYPE_BYTES[spec.dtype]
            return self.storage.random_values(self._words(name, begin * size, count * size))
        triangle = _triangle(self._words(name, begin * 2, count * 2))
        dtype = TORCH_DTYPES[spec.dtype]
        if spec.matrix is not None:  # a scale of it
            typical = _gain(name) / math.sqrt(spec.matrix[1]) / self.storage.random_std
            return triangle.mul_(0.05 * typical / _TRIANGLE_STD).add_(typical).to(dtype)
        if name.endswith("e_score_correction_bias"):
            return triangle.mul_(0.05 / _TRIANGLE_STD).to(dtype)
        if name.endswith(("norm.weight", "norm0.weight", "norm1.weight")):
            return triangle.mul_(0.1 / _TRIANGLE_STD).add_(1.0).to(dtype)
        if is_vision(name) and name.endswith((".bias", "pos_emb.weight")):
            std = 0.1 if name.endswith(".bias") else 0.5  # so that each of them shows in the result
            return triangle.mul_(std / _TRIANGLE_STD).to(dtype)
        fan_in = 1 if name == "model.embed_tokens.weight" else math.prod(spec.shape[1:])
        return triangle.mul_(_gain(name) / math.sqrt(fan_in) / _TRIANGLE_STD).to(dtype)

    def _words(self, name: str, begin: int, nbytes: int) -> NDArray[np.uint8]:
        """`nbytes` random bytes from byte `begin` (a multiple of 8) of the tensor's stream."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        start = int.from_bytes(digest[:8], "little")
        return _random_words(start, begin // 8, -(-nbytes // 8)).view(np.uint8)[:nbytes]


def _random_words(start: int, begin: int, count: int) -> NDArray[np.uint64]:
    """Words `begin` .. of a stream: SplitMix64 (Steele, Lea, Flood 2014) of a counter."""
    out = np.empty(count, np.uint64)
    steps = np.arange(min(count, _BLOCK), dtype=np.uint64) * np.uint64(_GOLDEN)
    scratch = np.empty_like(steps)
    for i in range(0, count, _BLOCK):
        z = out[i : i + _BLOCK]
        t = scratch[: len(z)]
        first = (start + (begin + i) * _GOLDEN) % 2**64
        np.add(steps[: len(z)], np.uint64(first), out=z)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            np.right_shift(z, np.uint64(shift), out=t)
            np.bitwise_xor(z, t, out=z)
            np.multiply(z, np.uint64(factor), out=z)
        np.right_shift(z, np.uint64(31), out=t)
        np.bitwise_xor(z, t, out=z)
    return out


def _triangle(raw: NDArray[np.uint8]) -> Tensor:
    """Two bytes per value -> float32, triangular over -255..255, mean 0."""
    pairs = torch.from_numpy(raw.view(np.int16))
    high, low = pairs >> 8, (pairs << 8) >> 8  # both keep their sign
    return (high + low).to(torch.float32).add_(1.0)


def _gain(name: str) -> float:
    """Standard deviation of a projection's output for an input of one."""
    if name.startswith("lm_head"):
        return 4.0  # logits spread, so that the greedy choice does not hang on rounding
    return 2.0 if name.endswith("mlp.gate.weight") else 1.0
