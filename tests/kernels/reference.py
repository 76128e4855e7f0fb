"""What the C kernels compute, in plain torch: the tests compare the two.

Weights are given as numbers (dequantised, row-major), so that nothing here depends on a layout.

Shape suffixes: T rows, I inputs, G groups of 32 inputs, O outputs, E experts, D hidden,
F expert hidden, K experts per row.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from perilune.kernels.native import BLOCK, GROUP, Form
from perilune.kernels.quantization import quantize_int8

__all__ = [
    "as_seen",
    "interleave",
    "linear",
    "quantize_activations",
    "quantize_int8",
    "routed_experts",
]

TINY: Final = 1e-30  # a group of activations all smaller counts as zero


def quantize_activations(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [T, I] -> int8 [T, G, 32] and scales float32 [T, G], scale = absmax / 127.

    A group that holds a value that is not finite gets q = 0 and scale NaN, so that the row's
    results are NaN; a group below 1e-30 gets zeros.
    """
    x_TGK = _groups(x_TI.float())
    absmax_TG = x_TGK.abs().amax(-1)
    usable_TG = absmax_TG.isfinite() & (absmax_TG >= TINY)
    # One rounding, as in C: `127.0 / tensor` would be a reciprocal and a product.
    inverse_TG = torch.where(usable_TG, torch.full_like(absmax_TG, 127.0) / absmax_TG, 0.0)
    q_TGK = torch.where(usable_TG[..., None], x_TGK * inverse_TG[..., None], 0.0).round()
    scale_TG = torch.where(usable_TG, absmax_TG / 127.0, 0.0)
    scale_TG = torch.where(absmax_TG.isfinite(), scale_TG, torch.nan)
    return q_TGK.to(torch.int8), scale_TG


def as_seen(x_TI: Tensor, form: Form) -> Tensor:
    """The activations as a kernel of this form sees them, as float32 numbers."""
    if form is Form.INT8:
        q_TGK, scale_TG = quantize_activations(x_TI)
        return (q_TGK.float() * scale_TG[..., None]).flatten(-2)
    if form is Form.BF16:
        return x_TI.to(torch.bfloat16).float()
    return x_TI.float()


def linear(x_TI: Tensor, weight_OI: Tensor, form: Form) -> Tensor:
    """y = x W^T, float32 [T, O], summed in float64."""
    return (as_seen(x_TI, form).double() @ weight_OI.double().T).float()


def routed_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    indices_TK: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
    form: Form,
) -> Tensor:
    """sum over k of weights[t, k] * down(silu(gate x) * up x) of the expert indices[t, k]."""
    y_TD = torch.zeros(x_TD.shape, dtype=torch.float32)
    for e in sorted(set(indices_TK.flatten().tolist())):
        token_N, k_N = (indices_TK == e).nonzero(as_tuple=True)
        x_ND = x_TD[token_N]
        gate_NF = linear(x_ND, gate_EFD[e], form)
        hidden_NF = F.silu(gate_NF) * linear(x_ND, up_EFD[e], form)
        answer_ND = linear(hidden_NF, down_EDF[e], form)
        y_TD.index_add_(0, token_N, answer_ND * weights_TK[token_N, k_N, None].float())
    return y_TD


def interleave(words_OW: Tensor) -> Tensor:
    """Row-major [O, W] items -> the native layout, flat: every 16 rows transposed."""
    blocks = [block.T.flatten() for block in torch.split(words_OW, BLOCK)]
    return torch.cat(blocks) if blocks else words_OW.flatten()


def _groups(x_TI: Tensor) -> Tensor:
    """[T, I] -> [T, G, 32]."""
    return x_TI.reshape(*x_TI.shape[:-1], -1, GROUP)
