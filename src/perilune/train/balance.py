"""Load balance of the routed experts without an auxiliary loss (arXiv 2408.15664).

Once an optimiser step, outside the graph, each router bias moves by a fixed rate towards an equal
load. Nothing of it enters a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.train.parallel import cut_like


def routers_of(model: KimiK2Model) -> list[MixtureOfExperts]:
    """The mixture blocks in the order of the layers."""
    return [
        m for m in (layer.mlp for layer in model.model.layers) if isinstance(m, MixtureOfExperts)
    ]


@torch.no_grad()
def update_biases(model: KimiK2Model, load_LE: Sequence[Tensor], rate: float) -> None:
    """b <- b + rate * sign(mean load - load), then the mean change is taken out again.

    Without the last the biases would drift together, which changes no choice but loses precision.
    """
    if not rate:
        return
    for block, load_E in zip(routers_of(model), load_LE, strict=True):
        change_E = rate * torch.sign(load_E.mean() - load_E)
        bias_E = block.gate.e_score_correction_bias
        bias_E.add_(cut_like(change_E - change_E.mean(), bias_E))


def max_violation(load_E: Tensor) -> float:
    """MaxVio: largest load over the mean, minus one; 0 is perfect balance."""
    mean = float(load_E.mean())
    return float(load_E.max()) / mean - 1 if mean else 0.0


def dead_experts(load_E: Tensor) -> int:
    """Experts that got no token."""
    return int((load_E == 0).sum())
