"""Small models and documents that the training tests share."""

from __future__ import annotations

import random

import torch

from perilune.config import ModelConfig, RopeConfig
from perilune.model import KimiK2Model
from perilune.train.data.document import Document

VOCABULARY = 61


def small_config(*, q_lora_rank: int | None = 24) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, first_k_dense_replace=1,
        intermediate_size=48, moe_intermediate_size=32, n_routed_experts=6,
        num_experts_per_tok=2, num_attention_heads=2, q_lora_rank=q_lora_rank, kv_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, routed_scaling_factor=1.5,
        rms_norm_eps=1e-5, max_position_embeddings=512, rope=RopeConfig(),
    )  # fmt: skip


def small_model(*, q_lora_rank: int | None = 24, seed: int = 0) -> KimiK2Model:
    """Every parameter random, norms and router biases too."""
    torch.manual_seed(seed)
    model = KimiK2Model(small_config(q_lora_rank=q_lora_rank))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                value.add_(0.3 * torch.randn_like(value))
            elif name.endswith("e_score_correction_bias"):
                value.copy_(0.05 * torch.randn_like(value))
            elif "experts" in name or "gate" in name:
                value.copy_(0.2 * torch.randn_like(value))
    return model


def documents(count: int, *, seed: int = 0, headers: int = 2, longest: int = 14) -> list[Document]:
    """Random documents; header 0 is empty, the others of different lengths."""
    stream = random.Random(seed)
    heads = [[stream.randrange(VOCABULARY) for _ in range(5 * h)] for h in range(headers + 1)]
    out = []
    for _ in range(count):
        length = stream.randint(1, longest)
        ids = [stream.randrange(VOCABULARY) for _ in range(length)]
        trained = [stream.random() < 0.6 for _ in ids]
        out.append(Document(ids, trained, stream.choice(heads)))
    return out
