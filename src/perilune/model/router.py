"""The router: which experts a token goes to, and with which weight (arXiv 2412.19437, 2.1.2).

Each expert has an affinity sigmoid(x . w_e). A bias that balances the load is added for the
choice only; the weights are the bare affinities of the chosen experts, normalised and scaled.

Ties: among equal scores the expert (or group) with the lowest index is chosen. `torch.topk`
promises nothing here, and a kernel that picks otherwise would be a different model.

Shape suffixes: T tokens, D hidden, E experts, G groups, K chosen experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.config import ModelConfig
from perilune.model.context import PLAIN, Operators
from perilune.model.init import init_normal


class Router(nn.Module):
    """`mlp.gate`. Computes in float32; `e_score_correction_bias` stays float32 in every model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.n_group = config.n_group
        self.topk_group = config.topk_group
        self.norm_topk_prob = config.norm_topk_prob
        self.routed_scaling_factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        init_normal(self.weight, std=0.02)
        # Moved by the load balancing of training, never by a gradient.
        self.e_score_correction_bias = nn.Parameter(
            torch.zeros(config.n_routed_experts, dtype=torch.float32), requires_grad=False
        )

    def forward(self, x_TD: Tensor, context: Operators = PLAIN) -> tuple[Tensor, Tensor]:
        """-> weights float32 [T, K] and expert indices int64 [T, K], best first."""
        scores_TE = F.linear(x_TD.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            indices_TK = self.choose(scores_TE)
        weights_TK = scores_TE.gather(1, indices_TK)
        if self.norm_topk_prob:
            weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
        weights_TK = weights_TK * self.routed_scaling_factor
        context.routed(self, scores_TE, indices_TK)
        return weights_TK, indices_TK

    def choose(self, scores_TE: Tensor) -> Tensor:
        """Affinities -> the chosen experts [T, K], by affinity plus bias."""
        choice_TE = scores_TE + self.e_score_correction_bias
        if self.n_group > 1:
            # A group counts by its two best experts; experts of the other groups are out.
            choice_TGE = torch.unflatten(choice_TE, -1, (self.n_group, -1))
            best = min(2, choice_TGE.shape[-1])
            group_score_TG = choice_TGE.topk(best, dim=-1).values.sum(-1)
            out_TG = torch.ones_like(group_score_TG, dtype=torch.bool)
            out_TG.scatter_(1, _top(group_score_TG, self.topk_group), value=False)
            choice_TE = choice_TGE.masked_fill(out_TG[..., None], -torch.inf).flatten(-2)
        return _top(choice_TE, self.top_k)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Move with the model, but keep the bias float32 where the rest becomes bfloat16."""
        bias = self.e_score_correction_bias.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = self.e_score_correction_bias
        if moved.dtype != torch.float32:
            moved.data = bias.to(moved.device)
        return self


def _top(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of the last dimension, best first, ties to the lower index."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]
