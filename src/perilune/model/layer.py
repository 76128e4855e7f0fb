"""One decoder layer: attention, then feed-forward, each on a normed input and added back."""

from __future__ import annotations

from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.model.attention import LatentAttention
from perilune.model.context import ForwardContext
from perilune.model.mlp import MLP
from perilune.model.moe import MixtureOfExperts
from perilune.model.norm import RMSNorm


class DecoderLayer(nn.Module):
    """Layer `index`; the first `first_k_dense_replace` layers are dense, the others MoE."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LatentAttention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: nn.Module = (
            MixtureOfExperts(config)
            if config.is_moe_layer(index)
            else MLP(config.hidden_size, config.intermediate_size)
        )

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [..., T, D] -> the same shape."""
        x = x + self.self_attn(context.norm(self.input_layernorm, x), context)
        y: Tensor = x + self.mlp(context.norm(self.post_attention_layernorm, x), context)
        return y
