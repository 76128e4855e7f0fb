"""The projector behind the tower: four vectors of a token -> one of the text network's width."""

from __future__ import annotations

from torch import Tensor, nn

from perilune.model.vision.operators import PLAIN, VisionOperators
from perilune.vision_config import VisionConfig


class Projector(nn.Module):
    """`mm_projector.` of type `patchmerger`. `proj.1` is the GELU, exact here, not by tanh."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(config.vt_hidden_size, eps=config.projector_ln_eps)
        self.proj = nn.Sequential(
            nn.Linear(config.merged_size, config.merged_size),
            nn.GELU(),
            nn.Linear(config.merged_size, config.text_hidden_size),
        )

    def forward(self, x_M4D: Tensor, operators: VisionOperators = PLAIN) -> Tensor:
        """[M, 4, D] -> [M, text hidden]: each of the four normed alone, then side by side."""
        inner, outer = self.proj[0], self.proj[2]
        assert isinstance(inner, nn.Linear) and isinstance(outer, nn.Linear)
        x = operators.norm(self.pre_norm, x_M4D).flatten(1)
        return operators.linear(outer, operators.gelu_linear(inner, x, "none"))
