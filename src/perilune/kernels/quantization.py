"""The arithmetic of the storage formats, in plain torch: pack, unpack, quantise, dequantise.

Which weights a format covers and how its tensors are named is in `perilune.formats`.

INT4 (compressed-tensors "pack-quantized", as K2 Thinking and K2.5 publish their routed experts):
eight values an int32 along the input dimension, element j of a row in bits 4*(j%8)..+3 of word
j//8, stored as q+8; one bfloat16 scale a group of consecutive inputs; no zero point.
FP8 (as K2-Instruct is published): float8_e4m3fn values and one float32 factor a block of rows and
columns, multiplied in spite of its published name `weight_scale_inv`.
INT8: one byte a value, one bfloat16 scale a group of consecutive inputs.

Shape suffixes: O output rows, I inputs, W = I/8 words, G = I/group groups, R and C block rows and
columns. Leading dimensions (stacked experts) are allowed everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

INT4_GROUP_SIZE = 32
INT8_GROUP_SIZE = 32
FP8_BLOCK = (128, 128)
FP8_MAX = 448.0  # largest finite float8_e4m3fn
MIN_INT4_SCALE = 1e-5

_SHIFTS = tuple(range(0, 32, 4))


def unpack_int4(packed_OW: Tensor) -> Tensor:
    """int32 [..., O, W] -> int8 [..., O, 8*W], values -8..7."""
    _expect(packed_OW.dtype == torch.int32, f"packed INT4 is int32, not {packed_OW.dtype}")
    # Bytes of a word lie low end first on every machine torch runs on; nibbles likewise.
    bytes_OB = packed_OW.contiguous().view(torch.uint8)
    pairs_OB2 = torch.stack((bytes_OB & 0xF, bytes_OB >> 4), dim=-1)
    values_OI: Tensor = pairs_OB2.flatten(-2).view(torch.int8) - 8
    return values_OI


def pack_int4(values_OI: Tensor) -> Tensor:
    """Integers [..., O, I] in -8..7, I a multiple of 8 -> int32 [..., O, I/8]."""
    _expect(values_OI.shape[-1] % 8 == 0, f"{values_OI.shape[-1]} values per row, not 8 a word")
    nibbles = _groups((values_OI + 8).to(torch.uint8), 2)
    bytes_OB: Tensor = nibbles[..., 0] | nibbles[..., 1] << 4
    return bytes_OB.contiguous().view(torch.int32)


def quantize_int4(weight_OI: Tensor, group_size: int = INT4_GROUP_SIZE) -> tuple[Tensor, Tensor]:
    """Weights [..., O, I] -> packed int32 [..., O, I/8] and scales bfloat16 [..., O, I/group].

    The published rule: scale = max(absmax / 7, 1e-5), rounded to bfloat16 as it is stored, then
    q = rint(w / scale), so that -7 <= q <= 7. Values that are not finite are refused (ValueError).
    """
    inputs = weight_OI.shape[-1]
    _expect(
        group_size % 8 == 0 and inputs % group_size == 0,
        f"{inputs} inputs do not divide into groups of {group_size}",
    )
    groups_OGK = _groups(weight_OI.float(), group_size)
    absmax_OG = groups_OGK.abs().amax(-1)
    _expect(bool(absmax_OG.isfinite().all()), "the weights hold values that are not finite")
    scale_OG = (absmax_OG / 7).clamp_min(MIN_INT4_SCALE).to(torch.bfloat16)
    # Rounding the scale moves absmax / scale by 1/256 at most: no clamp is needed.
    q_OGK = (groups_OGK / scale_OG.float()[..., None]).round_()
    return pack_int4(q_OGK.to(torch.int8).flatten(-2)), scale_OG


def dequantize_int4(
    packed_OW: Tensor, scale_OG: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Packed int32 [..., O, W] and scales [..., O, G] -> weights [..., O, 8*W] in `dtype`.

    The product is exact in float32 (4 bits times 8); `dtype` rounds it once.
    """
    q_OI = unpack_int4(packed_OW)
    groups = scale_OG.shape[-1]
    _expect(
        scale_OG.shape[:-1] == packed_OW.shape[:-1] and groups > 0 and q_OI.shape[-1] % groups == 0,
        f"scales {tuple(scale_OG.shape)} do not fit packed weights {tuple(packed_OW.shape)}",
    )
    q_OGK = _groups(q_OI, q_OI.shape[-1] // groups)
    return (q_OGK.float() * scale_OG.float()[..., None]).flatten(-2).to(dtype)


def quantize_int8(weight_OI: Tensor, group_size: int = INT8_GROUP_SIZE) -> tuple[Tensor, Tensor]:
    """Weights [..., O, I] -> int8 [..., O, I] and bfloat16 scales [..., O, I/group].

    scale = absmax / 127 rounded up to bfloat16, so that no value passes 127 (as the C library's
    `plk_quantize_int8`); q = rint(w / scale). Values that are not finite are refused (ValueError).
    """
    inputs = weight_OI.shape[-1]
    _expect(inputs % group_size == 0, f"{inputs} inputs do not divide into groups of {group_size}")
    w_OGK = _groups(weight_OI.float(), group_size)
    wanted_OG = w_OGK.abs().amax(-1) / 127.0
    _expect(bool(wanted_OG.isfinite().all()), "the weights hold values that are not finite")
    bits_OG = wanted_OG.view(torch.int32).bitwise_right_shift(16).to(torch.int64)
    bits_OG += (wanted_OG.view(torch.int32) & 0xFFFF) != 0
    scale_OG = (bits_OG << 16).to(torch.int32).view(torch.float32)
    q_OGK = torch.where(scale_OG[..., None] > 0, w_OGK / scale_OG[..., None], 0.0).round()
    return q_OGK.flatten(-2).to(torch.int8), scale_OG.to(torch.bfloat16)


def dequantize_int8(
    values_OI: Tensor, scale_OG: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """int8 [..., O, I] and scales [..., O, G] -> weights [..., O, I] in `dtype`, rounded once."""
    groups = scale_OG.shape[-1]
    _expect(
        scale_OG.shape[:-1] == values_OI.shape[:-1]
        and groups > 0
        and values_OI.shape[-1] % groups == 0,
        f"scales {tuple(scale_OG.shape)} do not fit weights {tuple(values_OI.shape)}",
    )
    q_OGK = _groups(values_OI, values_OI.shape[-1] // groups)
    return (q_OGK.float() * scale_OG.float()[..., None]).flatten(-2).to(dtype)


def quantize_fp8_block(
    weight_OI: Tensor, block: tuple[int, int] = FP8_BLOCK
) -> tuple[Tensor, Tensor]:
    """Weights [..., O, I] -> float8_e4m3fn [..., O, I] and float32 factors [..., R, C].

    factor = absmax of the block / 448 (1 for a block of zeros); ragged edges make smaller blocks.
    Values that are not finite are refused (ValueError).
    """
    rows, columns = weight_OI.shape[-2:]
    weight = weight_OI.float()
    padded = F.pad(weight, (0, -columns % block[1], 0, -rows % block[0]))
    absmax_OC = _groups(padded.abs(), block[1]).amax(-1)
    absmax_RC = _groups(absmax_OC.mT, block[0]).amax(-1).mT.contiguous()
    _expect(bool(absmax_RC.isfinite().all()), "the weights hold values that are not finite")
    # A factor that underflows to zero would divide by zero; such a block is zero in FP8 anyway.
    factor_RC = absmax_RC / FP8_MAX
    factor_RC = torch.where(factor_RC > 0, factor_RC, 1.0)
    scaled = weight / _expand_blocks(factor_RC, rows, columns, block)
    return scaled.clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), factor_RC


def dequantize_fp8_block(
    weight_OI: Tensor,
    factor_RC: Tensor,
    block: tuple[int, int] = FP8_BLOCK,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """float8_e4m3fn [..., O, I] and float32 factors [..., R, C] -> weights [..., O, I]."""
    rows, columns = weight_OI.shape[-2:]
    blocks = (-(-rows // block[0]), -(-columns // block[1]))
    _expect(
        tuple(factor_RC.shape[-2:]) == blocks,
        f"{tuple(factor_RC.shape)} factors; {rows}x{columns} has {blocks} blocks",
    )
    weight: Tensor = weight_OI.float() * _expand_blocks(factor_RC, rows, columns, block)
    return weight.to(dtype)


def _groups(x: Tensor, size: int) -> Tensor:
    """[..., n * size] -> [..., n, size]."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def _expand_blocks(factor_RC: Tensor, rows: int, columns: int, block: tuple[int, int]) -> Tensor:
    """One factor a block -> one factor a value."""
    wide = factor_RC.float().repeat_interleave(block[1], dim=-1)[..., :columns]
    return wide.repeat_interleave(block[0], dim=-2)[..., :rows, :]


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
