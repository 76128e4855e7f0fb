"""QK-Clip: keep attention scores below a threshold by shrinking the heads that exceed it.

After a step, gamma = threshold / (largest score of the head). A head with gamma < 1 gets
sqrt(gamma) on the position-free rows of its query and key up-projections, and gamma on the rotary
rows of its query. The rotary key is shared by all heads and stays, and so do the values. Every
score of the head is then gamma times what it was (arXiv 2507.20534, 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from perilune.model.attention import LatentAttention
from perilune.train.parallel import cut_like, whole


@torch.no_grad()
def clip_attention(module: LatentAttention, max_H: Tensor, threshold: float) -> int:
    """Shrink the heads whose largest score `max_H` exceeds `threshold`; returns how many.

    Scores are those after the softmax scale. A head whose maximum is not a finite number is left.
    """
    high_H = max_H.isfinite() & (max_H > threshold)
    count = int(high_H.sum())
    if count:
        gamma_H = torch.where(high_H, threshold / max_H, 1.0)[:, None, None]
        query = module.q_b_proj if module.low_rank_query else module.q_proj
        for part, rotary in ((query, gamma_H), (module.kv_b_proj, torch.ones_like(gamma_H))):
            weight = part.weight.detach()
            # Query: nope rows, then rotary rows. Key and value: nope rows, then the values.
            full_HRI = torch.unflatten(whole(weight), 0, (module.num_heads, -1)).clone()
            full_HRI[:, : module.nope_dim] *= gamma_H.sqrt()
            full_HRI[:, module.nope_dim :] *= rotary
            weight.copy_(cut_like(full_HRI.flatten(0, 1), weight))
    return count
