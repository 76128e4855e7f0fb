"""Multi-head latent attention, in both of its forms (arXiv 2405.04434, 2.1).

Keys and values of all heads come from one small latent a token. The expanded form computes them
and attends as usual: cheap for many new tokens (prefill). The absorbed form moves the up-projection
onto the query and the output and attends over the latents themselves: cheap for one new token
(decode). Both are the same function.

Shape suffixes: B batch, T new tokens, S tokens attended to, D hidden, H heads, N width of a
head's position-free part, R of its rotary part, V of its value, L latent rank, C = L + R cached.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.model.context import ForwardContext
from perilune.model.norm import RMSNorm
from perilune.model.rotary import rotate


class LatentAttention(nn.Module):
    """`self_attn`. `expanded` and `absorbed` are what a context attends with."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = config.num_attention_heads
        self.nope_dim, self.rope_dim = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value_dim, self.rank = config.v_head_dim, config.kv_lora_rank
        self.softmax_scale = config.softmax_scale
        hidden, query_width = config.hidden_size, self.num_heads * config.qk_head_dim
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, query_width, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, config.lora_norm_eps)
            self.q_b_proj = nn.Linear(config.q_lora_rank, query_width, bias=False)
        self.low_rank_query = config.q_lora_rank is not None
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.latent_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, config.lora_norm_eps)
        self.kv_b_proj = nn.Linear(
            self.rank, self.num_heads * (self.nope_dim + self.value_dim), bias=False
        )
        self.o_proj = nn.Linear(self.num_heads * self.value_dim, hidden, bias=False)

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """New tokens [..., T, D] -> [..., T, D]; they attend to those before and to each other."""
        q_THN, q_THR = self.queries(x, context)
        latent_TC = self.latents(x, context)
        out_THV = context.attend(self, q_THN, q_THR, latent_TC)
        return context.linear(self.o_proj, out_THV.flatten(-2))

    def queries(self, x: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        """-> position-free part [..., T, H, N] and rotated part [..., T, H, R]."""
        if self.low_rank_query:
            rank = context.norm(self.q_a_layernorm, context.linear(self.q_a_proj, x))
            q = context.linear(self.q_b_proj, rank)
        else:
            q = context.linear(self.q_proj, x)
        q_THQ = torch.unflatten(q, -1, (self.num_heads, -1))
        q_THN, q_THR = torch.split(q_THQ, [self.nope_dim, self.rope_dim], dim=-1)
        cos, sin = context.rotation
        return q_THN, rotate(q_THR, cos.unsqueeze(-2), sin.unsqueeze(-2))

    def latents(self, x: Tensor, context: ForwardContext) -> Tensor:
        """What the cache keeps: [..., T, C], the normed latent then the rotated shared key."""
        both_TC = context.linear(self.kv_a_proj_with_mqa, x)
        latent_TL, key_TR = torch.split(both_TC, [self.rank, self.rope_dim], dim=-1)
        latent_TL = context.norm(self.kv_a_layernorm, latent_TL)
        return torch.cat((latent_TL, rotate(key_TR, *context.rotation)), dim=-1)

    def expanded(
        self, q_BTHN: Tensor, q_BTHR: Tensor, latent_BSC: Tensor, mask_TS: Tensor
    ) -> Tensor:
        """Attend over the heads' own keys and values -> [B, T, H, V]."""
        latent_BSL, key_BSR = torch.split(latent_BSC, [self.rank, self.rope_dim], dim=-1)
        up_BSHU = torch.unflatten(self.kv_b_proj(latent_BSL), -1, (self.num_heads, -1))
        key_BSHN, value_BSHV = torch.split(up_BSHU, [self.nope_dim, self.value_dim], dim=-1)
        scores_BHTS = torch.einsum("bthn,bshn->bhts", q_BTHN, key_BSHN)
        scores_BHTS = scores_BHTS + torch.einsum("bthr,bsr->bhts", q_BTHR, key_BSR)
        weights_BHTS = self._softmax(scores_BHTS, mask_TS)
        return torch.einsum("bhts,bshv->bthv", weights_BHTS, value_BSHV)

    def absorbed(
        self, q_BTHN: Tensor, q_BTHR: Tensor, latent_BSC: Tensor, mask_TS: Tensor
    ) -> Tensor:
        """Attend over the latents -> [B, T, H, V]; the same numbers as `expanded`."""
        up_HNL, up_HVL = self.up_projections()
        q_BTHL = torch.einsum("bthn,hnl->bthl", q_BTHN, up_HNL)
        q_BTHC = torch.cat((q_BTHL, q_BTHR), dim=-1)
        scores_BHTS = torch.einsum("bthc,bsc->bhts", q_BTHC, latent_BSC)
        weights_BHTS = self._softmax(scores_BHTS, mask_TS)
        out_BTHL = torch.einsum("bhts,bsl->bthl", weights_BHTS, latent_BSC[..., : self.rank])
        return torch.einsum("bthl,hvl->bthv", out_BTHL, up_HVL)

    def up_projections(self) -> tuple[Tensor, Tensor]:
        """`kv_b_proj` as the heads' key part [H, N, L] and value part [H, V, L].

        Formats that store it otherwise override this.
        """
        up_HUL = torch.unflatten(self.kv_b_proj.weight, 0, (self.num_heads, -1))
        key_HNL, value_HVL = torch.split(up_HUL, [self.nope_dim, self.value_dim], dim=1)
        return key_HNL, value_HVL

    def _softmax(self, scores_BHTS: Tensor, mask_TS: Tensor) -> Tensor:
        """Scaled, causal, in float32."""
        scores_BHTS32 = (scores_BHTS.float() * self.softmax_scale).masked_fill(~mask_TS, -torch.inf)
        return scores_BHTS32.softmax(dim=-1).to(scores_BHTS.dtype)
