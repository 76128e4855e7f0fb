"""What the kernel tests share: every instruction set of this machine, and random weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from perilune.kernels import native
from perilune.kernels.matrix import NativeExpertStack, NativeMatrix
from perilune.kernels.native import Format
from perilune.kernels.quantization import (
    dequantize_fp8_block,
    dequantize_int4,
    quantize_fp8_block,
    quantize_int4,
)
from tests.kernels.reference import quantize_int8

ISAS = native.isas() if native.available() else []
needs_library = pytest.mark.skipif(not native.available(), reason="the C library is not built")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn; the best one is restored."""
    native.select_isa(request.param)
    yield request.param
    native.select_isa(ISAS[0])


def random_matrix(storage: Format, outputs: int, inputs: int) -> tuple[NativeMatrix, Tensor]:
    """A matrix in the native layout and the numbers that it stands for, float32 [O, I]."""
    weight_OI = torch.randn(outputs, inputs)
    if storage is Format.INT4:
        packed, scale = quantize_int4(weight_OI)
        numbers = dequantize_int4(packed, scale)
        return NativeMatrix.from_int4_(packed, scale), numbers
    if storage is Format.INT8:
        source = weight_OI.to(torch.bfloat16)
        q, scale = quantize_int8(source)
        numbers = q.float() * scale.float().repeat_interleave(32, dim=1)
        return NativeMatrix.quantize(source), numbers
    if storage is Format.FP8:
        values, factors = quantize_fp8_block(weight_OI)
        numbers = dequantize_fp8_block(values, factors)
        return NativeMatrix.from_plain_(values, factors), numbers
    stored = weight_OI.to(torch.bfloat16 if storage is Format.BF16 else torch.float32)
    return NativeMatrix.from_plain_(stored.clone()), stored.float()


def random_experts(
    storage: Format, experts: int, hidden: int, intermediate: int
) -> tuple[NativeExpertStack, list[Tensor]]:
    """Stacked experts in the native layout, and gate, up, down as float32 numbers."""
    sizes = [(intermediate, hidden), (intermediate, hidden), (hidden, intermediate)]
    plain = [torch.randn(experts, *size) / size[1] ** 0.5 for size in sizes]
    if storage is Format.INT4:
        packed, scales = zip(*(quantize_int4(w) for w in plain), strict=True)
        numbers = [dequantize_int4(p, s) for p, s in zip(packed, scales, strict=True)]
        return NativeExpertStack.from_int4_(list(packed), list(scales)), numbers
    if storage is Format.FP8:
        values, factors = zip(*(quantize_fp8_block(w) for w in plain), strict=True)
        numbers = [dequantize_fp8_block(v, f) for v, f in zip(values, factors, strict=True)]
        return NativeExpertStack.from_plain_(list(values), list(factors)), numbers
    stored = [w.to(torch.bfloat16 if storage is Format.BF16 else torch.float32) for w in plain]
    numbers = [w.float() for w in stored]
    return NativeExpertStack.from_plain_([w.clone() for w in stored]), numbers


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of the expected."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))
