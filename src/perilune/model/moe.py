"""The mixture-of-experts block: the routed experts' weighted sum plus the shared expert."""

from __future__ import annotations

from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.model.context import PLAIN, Operators
from perilune.model.experts import Experts, RoutedExperts
from perilune.model.mlp import MLP
from perilune.model.router import Router


class MixtureOfExperts(nn.Module):
    """x [..., D] -> y [..., D]. The shared expert sees every token, unscaled and ungated."""

    experts: RoutedExperts

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(
            config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        )
        self.shared_experts = MLP(
            config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        )

    def forward(self, x: Tensor, context: Operators = PLAIN) -> Tensor:
        x_TD = x.flatten(0, -2)
        weights_TK, indices_TK = self.gate(x_TD, context)
        y_TD = context.experts(self.experts, x_TD, weights_TK, indices_TK)
        y_TD = y_TD + self.shared_experts(x_TD, context)
        y: Tensor = y_TD.view_as(x)
        return y
