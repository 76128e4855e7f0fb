"""The gated feed-forward block: down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor, nn

from perilune.model.context import PLAIN, Operators


class MLP(nn.Module):
    """Dense layers and the shared expert. x [..., D] -> y [..., D], F wide inside."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor, context: Operators = PLAIN) -> Tensor:
        gate = context.linear(self.gate_proj, x)
        up = context.linear(self.up_proj, x)
        return context.linear(self.down_proj, context.gated(gate, up))
