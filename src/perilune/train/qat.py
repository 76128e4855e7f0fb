"""INT4 training of the routed experts: the network computes with rounded weights.

The optimiser keeps float32 masters. After each step the network's copy becomes the master rounded
to the very grid that `perilune.kernels.quantization` packs (groups of 32 inputs, symmetric, one
bfloat16 scale), so the forward pass is that of the packed checkpoint, bit for bit, and the
gradient of the rounded weights is applied to the masters: the straight-through estimator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perilune.kernels.quantization import dequantize_int4, quantize_int4
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.optim.parameters import Label


def round_int4(weight_EOI: Tensor, group_size: int) -> Tensor:
    """Weights [..., O, I] as they come back from the INT4 format, float32."""
    return dequantize_int4(*quantize_int4(weight_EOI, group_size))


@torch.no_grad()
def start_qat(optimizer: MuonClip, group_size: int = 32) -> None:
    """From now on the routed experts of the network hold rounded copies of their masters."""
    for p in optimizer.parameters:
        if p.label is Label.EXPERTS:
            p.master = p.value.detach().clone()
            p.rounding = lambda master: round_int4(master, group_size)
    optimizer.publish()
