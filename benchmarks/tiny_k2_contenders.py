"""The tiny K2 and those who run it: Perilune, llama.cpp and transformers, each in its own process.

All get the same weights: random, experts rounded to INT4 groups of 32 (the peers hold the rounded
values in the format that they are asked for). Every contender answers three questions in seconds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.model

import torch
from torch import Tensor

from perilune.config import ModelConfig, RopeConfig
from perilune.formats.int4 import INT4
from perilune.kernels.quantization import dequantize_int4, quantize_int4
from perilune.model.model import KimiK2Model
from perilune.weights.stored import PROJECTIONS, StoredExperts

CONFIG = ModelConfig(
    vocab_size=36_864,
    hidden_size=512,
    num_hidden_layers=12,
    first_k_dense_replace=1,
    intermediate_size=1536,
    moe_intermediate_size=192,
    n_routed_experts=32,
    num_experts_per_tok=4,
    num_attention_heads=8,
    q_lora_rank=256,
    kv_lora_rank=256,
    qk_nope_head_dim=64,
    qk_rope_head_dim=32,
    v_head_dim=64,
    rope=RopeConfig(factor=32.0, beta_fast=1.0, beta_slow=1.0),
)
CONTEXT = 64  # tokens before the first decoded one
DECODED = 64


def build_model() -> tuple[KimiK2Model, dict[str, tuple[Tensor, Tensor]]]:
    """bf16 model whose experts hold INT4 values, and their packed form (words, scales) by name."""
    torch.manual_seed(0)
    model = KimiK2Model(CONFIG).requires_grad_(False).eval()
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=weight.shape[-1] ** -0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight", ".down_proj")):
            weight.mul_((2 * CONFIG.num_hidden_layers) ** -0.5)  # as networks are initialised
    model.model.embed_tokens.weight.mul_(CONFIG.hidden_size**0.5)
    model = model.to(torch.bfloat16)
    packed = {}
    for index, layer in enumerate(model.model.layers):
        if not CONFIG.is_moe_layer(index):
            continue
        for name, weight in layer.mlp.experts.named_parameters():  # type: ignore[union-attr]
            words, scales = quantize_int4(weight.flatten(0, 1).float())
            rounded = dequantize_int4(words, scales, torch.bfloat16)
            weight.copy_(rounded.view_as(weight))
            packed[f"{index}.{name}"] = (words, scales)
    return model, packed


def int4_model() -> KimiK2Model:
    """The same with the experts in their packed form."""
    model, packed = build_model()
    for index, layer in enumerate(model.model.layers):
        if not CONFIG.is_moe_layer(index):
            continue
        experts = StoredExperts(
            INT4, CONFIG.n_routed_experts, CONFIG.hidden_size, CONFIG.moe_intermediate_size
        )
        for name in PROJECTIONS:
            words, scales = packed[f"{index}.{name}"]
            getattr(experts, f"{name}_packed").view(words.shape).copy_(words)
            getattr(experts, f"{name}_scale").view(scales.shape).copy_(scales)
        layer.mlp.experts = experts  # type: ignore[union-attr]
    return model


def prompt(tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(3, CONFIG.vocab_size, (tokens,), generator=generator).tolist()
    return ids


class Contender(Protocol):
    def decode(self) -> float:
        """Seconds per token, one stream."""

    def prefill(self, tokens: int) -> float:
        """Seconds for a prompt."""

    def streams(self, n: int) -> float:
        """Seconds per step of n streams, one token each."""


class Perilune:
    def __init__(self, threads: int, *, dense: str | None = None, expanded: bool = False) -> None:
        from perilune.kernels import native
        from perilune.runner.cache import PagedLatentCache
        from perilune.runner.cpu.runner import CpuRunner

        native.set_threads(threads)
        model = int4_model()
        self.runner = CpuRunner(model, dense_format=dense, expanded_prefill=expanded)
        self.cache = PagedLatentCache.for_model(CONFIG, 256)

    def _steps(self, n: int) -> float:
        from perilune.runner.batch import SequenceRows, build_batch

        pages = [list(range(4 * s, 4 * s + 4)) for s in range(n)]
        for s in range(n):
            self.runner.execute(
                build_batch([SequenceRows(prompt(CONTEXT, s), 0, pages[s], 1)]), self.cache
            )
        ids = list(range(3, 3 + n))
        start = time.perf_counter()
        for step in range(DECODED):
            rows = [SequenceRows([ids[s]], CONTEXT + step, pages[s], 1) for s in range(n)]
            ids = self.runner.execute(build_batch(rows), self.cache).argmax(-1).tolist()
        return (time.perf_counter() - start) / DECODED

    def decode(self) -> float:
        return self._steps(1)

    def streams(self, n: int) -> float:
        return self._steps(n)

    def prefill(self, tokens: int) -> float:
        from perilune.runner.batch import SequenceRows, build_batch

        ids = prompt(tokens)
        start = time.perf_counter()
        step = build_batch([SequenceRows(ids, 0, list(range(-(-tokens // 64))), 1, tokens)])
        self.runner.execute(step, self.cache).argmax(-1).item()
        return time.perf_counter() - start


class LlamaCpp:
    """Greedy completions of the server of xllamacpp; times are llama.cpp's own."""

    def __init__(self, threads: int, kind: str, folder: Path) -> None:
        import gguf
        import xllamacpp
        from benchmarks.deepseek2_gguf import write_gguf

        path = folder / f"tiny-k2-{kind}.gguf"
        if not path.exists():
            model, _ = build_model()
            partial = path.with_suffix(".partial")
            write_gguf(
                partial, CONFIG, model.state_dict(), getattr(gguf.GGMLQuantizationType, kind)
            )
            partial.rename(path)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 1024
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = 0
        self.server = xllamacpp.Server(parameters)

    def _timings(self, ids: list[int], tokens: int) -> dict[str, Any]:
        answer = self.server.handle_completions(
            {
                "prompt": ids, "n_predict": tokens, "temperature": 0.0, "samplers": ["top_k"],
                "top_k": 1, "cache_prompt": False, "ignore_eos": True,
            }
        )  # fmt: skip
        timings: dict[str, Any] = answer["timings"]
        return timings

    def decode(self) -> float:
        timings = self._timings(prompt(CONTEXT), DECODED)
        return float(timings["predicted_per_token_ms"]) / 1e3

    def prefill(self, tokens: int) -> float:
        return float(self._timings(prompt(tokens), 1)["prompt_ms"]) / 1e3

    def streams(self, n: int) -> float:
        raise NotImplementedError


class Transformers:
    """Eager bfloat16."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        from tests.model.random_models import transformers_model

        model, _ = build_model()
        self.model = transformers_model(CONFIG, model.state_dict()).to(torch.bfloat16)

    @torch.inference_mode()
    def decode(self) -> float:
        ids = torch.tensor([prompt(CONTEXT)])
        answer = self.model(ids, use_cache=True, logits_to_keep=1)
        start = time.perf_counter()
        for _ in range(DECODED // 4):
            ids = answer.logits[:, -1].argmax(-1, keepdim=True)
            answer = self.model(ids, past_key_values=answer.past_key_values, use_cache=True)
        return (time.perf_counter() - start) / (DECODED // 4)

    @torch.inference_mode()
    def prefill(self, tokens: int) -> float:
        ids = torch.tensor([prompt(tokens)])
        start = time.perf_counter()
        self.model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1).item()
        return time.perf_counter() - start

    def streams(self, n: int) -> float:
        raise NotImplementedError


def build(name: str, threads: int, folder: Path) -> Contender:
    if name.startswith("perilune"):
        kind = name.removeprefix("perilune").strip()
        dense = kind if kind.startswith("int") else None
        return Perilune(threads, dense=dense, expanded=kind == "expanded")
    if name.startswith("llama.cpp"):
        return LlamaCpp(threads, name.split()[1], folder)
    return Transformers(threads)


def serve(name: str, threads: int, folder: Path, pipe: Any) -> None:
    """A contender's process: answer (question, arguments) with seconds until None comes."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    contender = build(name, threads, folder)
    pipe.send("ready")
    while (question := pipe.recv()) is not None:
        method, arguments = question
        pipe.send(getattr(contender, method)(*arguments))
