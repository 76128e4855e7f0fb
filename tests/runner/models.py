"""Small random models of every kind that the native forward takes, and schedules over them."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perilune.config import CheckpointConfig, Family, ModelConfig, RopeConfig
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.model.experts import Experts
from perilune.model.model import KimiK2Model
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache, pages_for
from perilune.runner.runner import ModelRunner
from perilune.weights.stored import PROJECTIONS, StoredExperts, StoredLinear, apply_format

BASE = ModelConfig(
    vocab_size=101,
    hidden_size=64,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    intermediate_size=96,
    moe_intermediate_size=32,
    n_routed_experts=6,
    num_experts_per_tok=2,
    num_attention_heads=3,
    q_lora_rank=32,
    kv_lora_rank=64,
    qk_nope_head_dim=32,
    qk_rope_head_dim=8,
    v_head_dim=32,
    rms_norm_eps=1e-5,
    rope=RopeConfig(factor=4.0),
)


def random_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype = torch.bfloat16,
    storage: StorageFormat = BF16,
    seed: int = 0,
) -> KimiK2Model:
    """Weights large enough that every part moves the logits; norms and biases not trivial."""
    torch.manual_seed(seed)
    plain = KimiK2Model(config).requires_grad_(False).eval()
    for name, weight in plain.named_parameters():
        if name.endswith("e_score_correction_bias"):
            weight.normal_(std=0.1)
        elif weight.dim() == 1:
            weight.uniform_(0.5, 1.5)
        else:
            weight.normal_(std=max(weight.shape[-1], 1) ** -0.5)
    plain = plain.to(dtype)
    if storage is BF16:
        return plain
    stored = copy.deepcopy(plain)
    apply_format(stored, CheckpointConfig(config, Family.K2, storage))
    for (_, source), (_, target) in zip(plain.named_modules(), stored.named_modules(), strict=True):
        if isinstance(target, StoredLinear):
            for suffix, made in storage.quantize(source.weight.float()).items():
                target.tensors()[suffix].copy_(made)
        elif isinstance(target, StoredExperts) and isinstance(source, Experts):
            _fill_experts(source, target)
    return stored.requires_grad_(False).eval()


def _fill_experts(source: Experts, target: StoredExperts) -> None:
    for name in PROJECTIONS:
        for e, weight in enumerate(getattr(source, name)):
            for suffix, made in target.storage.quantize(weight.float()).items():
                target.tensors(name)[suffix][e] = made


@torch.inference_mode()
def reference_logits(model: KimiK2Model, ids: Sequence[int]) -> Tensor:
    """[T, V] of the model's own modules in float32 (stored formats keep their stored values)."""
    logits: Tensor = copy.deepcopy(model).float()(torch.tensor([ids]), absorbed=True)
    return logits[0]


@dataclass
class Sequence_:
    ids: list[int]
    pages: list[int]
    done: int = 0


def run_schedule(
    runner: ModelRunner,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    dtype: torch.dtype,
    seed: int,
    most_rows: int = 40,
    absorbed: int = 0,
) -> list[Tensor]:
    """Feed all prompts in random chunks, random company and random pages; all logits of each.

    The pages hold NaN before: who reads what was not written, shows it. `absorbed`: of each, so
    many of the last tokens are never to be expanded.
    """
    draw = random.Random(seed)
    needed = [pages_for(len(ids)) for ids in prompts]
    free = draw.sample(range(sum(needed) + 3), sum(needed))
    cache = PagedLatentCache.for_model(config, sum(needed) + 3, dtype=dtype)
    cache.storage.fill_(float("nan"))
    sequences = [
        Sequence_(list(ids), [free.pop() for _ in range(n)])
        for ids, n in zip(prompts, needed, strict=True)
    ]
    logits: list[list[Tensor]] = [[] for _ in sequences]
    while any(s.done < len(s.ids) for s in sequences):
        waiting = [i for i, s in enumerate(sequences) if s.done < len(s.ids)]
        chosen = draw.sample(waiting, draw.randint(1, len(waiting)))
        counts = []
        for i in chosen:
            left = len(sequences[i].ids) - sequences[i].done
            counts.append(min(left, draw.choice((1, 1, 2, 3, 7, most_rows))))
        step = build_batch(
            [
                SequenceRows(
                    sequences[i].ids[sequences[i].done : sequences[i].done + n],
                    sequences[i].done,
                    sequences[i].pages,
                    n,
                    len(sequences[i].ids) - absorbed,
                )
                for i, n in zip(chosen, counts, strict=True)
            ]
        )
        answer = runner.execute(step, cache)
        for i, part in zip(chosen, answer.split(counts), strict=True):
            logits[i].append(part)
            sequences[i].done += len(part)
    return [torch.cat(parts) for parts in logits]


def run_alone(
    runner: ModelRunner,
    config: ModelConfig,
    ids: Sequence[int],
    *,
    dtype: torch.dtype,
    absorbed: int = 0,
) -> Tensor:
    """All logits of one prompt in a single step."""
    pages = list(range(pages_for(len(ids))))
    cache = PagedLatentCache.for_model(config, len(pages), dtype=dtype)
    rows = SequenceRows(ids, 0, pages, len(ids), len(ids) - absorbed)
    return runner.execute(build_batch([rows]), cache)


def random_prompts(config: ModelConfig, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(config.vocab_size) for _ in range(n)] for n in lengths]
