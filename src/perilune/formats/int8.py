"""int8: dense weights as one byte a value and one bfloat16 scale a group of inputs.

Attention, dense and shared feed-forward and the output head (where it is not the embedding table):
what the engine's `dense_format="int8"` quantises at load, by the same rule. Routed experts, router,
embeddings and norms stay bfloat16, and so does `kv_b_proj`, one hundredth of a model: the absorbed
form of attention multiplies with its transpose, whose groups are others. The layout is the one of
compressed-tensors "int-quantized".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
LAYOUT: Final = "int-quantized"
TABLES: Final = field_tables(LAYOUT, 8)
IGNORE: Final = (
    "re:.*kv_b_proj",
    r"re:.*mlp\.gate$",
    r"re:.*mlp\.experts\..*",
)
_COVERED: Final = frozenset({Part.ATTENTION, Part.DENSE_MLP, Part.SHARED_EXPERTS, Part.LM_HEAD})


@dataclass(frozen=True)
class Int8Format(StorageFormat):
    """`group`: inputs of a row that share a scale."""

    group: int = NATIVE_GROUP

    name: ClassVar[str] = "int8"
    published_as: ClassVar[str] = "compressed-tensors int-quantized INT8 of dense weights"
    config_tables: ClassVar[Mapping[str, Mapping[str, Field]]] = dict(
        zip(
            (
                "`quantization_config` of INT8",
                "`config_groups` of INT8",
                "`weights` of a group of INT8",
            ),
            TABLES,
            strict=True,
        )
    )
    dense_option: ClassVar[bool] = True
    random_std: ClassVar[float] = math.sqrt(sum(n * n for n in range(-127, 128)) / 256)

    def covers(self, name: str, part: Part) -> bool:
        return part in _COVERED and name != "kv_b_proj"

    def matrix_tensors(self, rows: int, columns: int) -> tuple[TensorLayout, ...]:
        if columns % self.group:
            raise ValueError(f"{columns} inputs do not divide into groups of {self.group}")
        return (
            TensorLayout("weight", "I8", (rows, columns), Role.VALUES),
            TensorLayout("weight_scale", "BF16", (rows, columns // self.group), Role.SCALE),
        )

    @property
    def bits(self) -> float:
        return 8 + 16 / self.group

    @property
    def some_size(self) -> tuple[int, int]:
        return (8, self.group)

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        from perilune.kernels.quantization import quantize_int8

        values, scale = quantize_int8(weight_OI, self.group)
        return {"weight": values, "weight_scale": scale}

    def dequantize(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        from perilune.kernels.quantization import dequantize_int8

        return dequantize_int8(tensors["weight"], tensors["weight_scale"], dtype)

    def random_values(self, raw: NDArray[np.uint8]) -> Tensor:
        """Bytes without -128, which quantisation never makes."""
        import numpy as np
        import torch

        values = raw.view(np.int8).copy()
        values[values == -128] = 0
        return torch.from_numpy(values)

    def reads_as_published(self) -> bool | None:
        import torch

        from perilune.kernels.quantization import dequantize_int8

        values = torch.tensor([[-127, 1] + [0] * 30], dtype=torch.int8)
        value = dequantize_int8(values, torch.tensor([[0.5]], dtype=torch.bfloat16))
        return value[0, :2].tolist() == [-63.5, 0.5]

    def claims(self, raw: Mapping[str, Any]) -> int:
        mine = raw.get("quant_method") == METHOD and raw.get("format") == LAYOUT
        return 2 if mine else 0

    def from_config(self, raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
        layout = "INT8 layout (int-quantized, symmetric int8, groups)"
        return Int8Format(read_group_size(raw, TABLES, file, layout))

    def quantization_config(self) -> dict[str, Any] | None:
        return config_of(LAYOUT, 8, self.group, IGNORE)

    def native(self, tensors: Mapping[str, Tensor]) -> NativeWeights | None:
        return NativeWeights(
            "INT8",
            "weight",
            "weight_scale",
            scale_interleaved=True,
            evens_first=True,
            quantizer="plk_quantize_int8",
        )

    def no_native(self) -> str:
        fits = self.group == NATIVE_GROUP
        return "" if fits else f"INT8 groups of {self.group}, the kernels have {NATIVE_GROUP}"


INT8: Final = Int8Format()
register(INT8)
