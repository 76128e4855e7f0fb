"""int4: eight values a word, one bfloat16 scale a group of inputs, routed experts only.

As K2 Thinking and K2.5 are published (compressed-tensors "pack-quantized"); everything else stays
bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from perilune.config_fields import Field
from perilune.formats.compressed_tensors import METHOD, config_of, field_tables, read_group_size
from perilune.formats.format import (
    NativeWeights,
    Part,
    Role,
    StorageFormat,
    TensorLayout,
    register,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

NATIVE_GROUP: Final = 32
TABLES: Final = field_tables("pack-quantized", 4)
IGNORE: Final = (
    "lm_head",
    "re:.*self_attn.*",
    "re:.*shared_experts.*",
    r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
)


@dataclass(frozen=True)
class Int4Format(StorageFormat):
    """`group`: inputs of a row that share a scale, a multiple of 8."""

    group: int = NATIVE_GROUP

    name: ClassVar[str] = "int4"
    published_as: ClassVar[str] = "compressed-tensors pack-quantized INT4"
    config_tables: ClassVar[Mapping[str, Mapping[str, Field]]] = dict(
        zip(
            (
                "`quantization_config` of INT4",
                "`config_groups` of INT4",
                "`weights` of a group of INT4",
            ),
            TABLES,
            strict=True,
        )
    )
    dense_option: ClassVar[bool] = True
    random_std: ClassVar[float] = math.sqrt((2 * sum(n * n for n in range(1, 8))) / 16)

    def covers(self, name: str, part: Part) -> bool:
        return part is Part.ROUTED_EXPERTS

    def matrix_tensors(self, rows: int, columns: int) -> tuple[TensorLayout, ...]:
        if columns % self.group:
            raise ValueError(f"{columns} inputs do not divide into groups of {self.group}")
        return (
            TensorLayout("weight_packed", "I32", (rows, columns // 8), Role.VALUES),
            TensorLayout("weight_scale", "BF16", (rows, columns // self.group), Role.SCALE),
            TensorLayout("weight_shape", "I32", (2,), Role.SHAPE),
        )

    @property
    def bits(self) -> float:
        return 4 + 16 / self.group

    @property
    def some_size(self) -> tuple[int, int]:
        return (8, self.group)

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        import torch

        from perilune.kernels.quantization import quantize_int4

        packed, scale = quantize_int4(weight_OI, self.group)
        shape = torch.tensor(weight_OI.shape[-2:], dtype=torch.int32)
        return {"weight_packed": packed, "weight_scale": scale, "weight_shape": shape}

    def dequantize(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        from perilune.kernels.quantization import dequantize_int4

        return dequantize_int4(tensors["weight_packed"], tensors["weight_scale"], dtype)

    def wrong(
        self, suffix: str, value: Tensor, shape: Callable[[str], tuple[int, ...] | None]
    ) -> str:
        packed = shape("weight_packed") if suffix == "weight_shape" else None
        if packed is None or value.tolist() == [packed[0], packed[1] * 8]:
            return ""
        return f"says {value.tolist()}, the packed weight is {list(packed)} words of 8"

    def random_values(self, raw: NDArray[np.uint8]) -> Tensor:
        """Words without the nibble 0 (the value -8, which quantisation never makes)."""
        import numpy as np
        import torch

        words = raw.view(np.uint32).copy()
        some = words | (words >> np.uint32(1))
        some |= some >> np.uint32(2)
        words |= (~some & np.uint32(0x11111111)) << np.uint32(3)  # 0 becomes 8, the value 0
        return torch.from_numpy(words.view(np.int32))

    def reads_as_published(self) -> bool | None:
        import torch

        from perilune.kernels.quantization import dequantize_int4

        word = torch.tensor([[0x76543210]], dtype=torch.int32)
        value = dequantize_int4(word, torch.tensor([[0.5]], dtype=torch.bfloat16))
        return value.tolist() == [[-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5]]

    def claims(self, raw: Mapping[str, Any]) -> int:
        if raw.get("quant_method") != METHOD:
            return 0
        return 2 if raw.get("format") == "pack-quantized" else 1

    def from_config(self, raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
        layout = "INT4 layout (pack-quantized, symmetric int4, groups)"
        return Int4Format(read_group_size(raw, TABLES, file, layout))

    def quantization_config(self) -> dict[str, Any] | None:
        return config_of("pack-quantized", 4, self.group, IGNORE)

    def native(self, tensors: Mapping[str, Tensor]) -> NativeWeights | None:
        return NativeWeights("INT4", "weight_packed", "weight_scale", scale_interleaved=True)

    def no_native(self) -> str:
        fits = self.group == NATIVE_GROUP
        return "" if fits else f"INT4 groups of {self.group}, the kernels have {NATIVE_GROUP}"


INT4: Final = Int4Format()
register(INT4)
