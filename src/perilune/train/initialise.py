"""Random weights to start from: inputs keep the variance, outputs start at zero.

Output projections (o_proj, down_proj) are zero, so every layer begins as the identity and learns
at its own pace; inputs are normal with 1/sqrt(fan-in); the head is small, so that the first loss
is that of a uniform guess.
"""

from __future__ import annotations

import math

import torch

from perilune.model.model import KimiK2Model
from perilune.train.optim.parameters import Label, parameter_table

ROUTER_STD = 0.02
HEAD_STD = 0.01


@torch.no_grad()
def initialise(model: KimiK2Model, seed: int) -> None:
    """Fill every trained parameter; the router biases become zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in parameter_table(model):
        weight = p.value.detach()
        if p.label is Label.NORM:
            weight.fill_(1.0)
        elif "o_proj" in p.name or "down_proj" in p.name:
            weight.zero_()
        else:
            std = {
                Label.ROUTER: ROUTER_STD,
                Label.EMBEDDING: 1.0,
                Label.HEAD: HEAD_STD,
            }.get(p.label, 1 / math.sqrt(weight.shape[-1]))
            weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))
    for name, value in model.named_parameters():
        if name.endswith("e_score_correction_bias"):
            value.detach().zero_()
