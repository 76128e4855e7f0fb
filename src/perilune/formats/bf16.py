"""bf16: weights as plain floating-point numbers, bfloat16 in published files. Nothing quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from perilune.formats.format import (
    NativeWeights,
    Part,
    Role,
    StorageFormat,
    TensorLayout,
    register,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NATIVE: Final = {"torch.bfloat16": "BF16", "torch.float32": "F32"}


@dataclass(frozen=True)
class Bf16Format(StorageFormat):
    """Read from float16 and float32 files too, and computed in any floating-point dtype."""

    name: ClassVar[str] = "bf16"

    def covers(self, name: str, part: Part) -> bool:
        return False  # no module has to hold anything else than a parameter

    def matrix_tensors(self, rows: int, columns: int) -> tuple[TensorLayout, ...]:
        return (TensorLayout("weight", "BF16", (rows, columns), Role.PLAIN),)

    @property
    def bits(self) -> float:
        return 16.0

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        import torch

        return {"weight": weight_OI.to(torch.bfloat16)}

    def dequantize(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return tensors["weight"].to(dtype)

    def claims(self, raw: Mapping[str, Any]) -> int:
        return 0 if raw else 2

    def from_config(self, raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
        return self

    def quantization_config(self) -> dict[str, Any] | None:
        return None

    def native(self, tensors: Mapping[str, Tensor]) -> NativeWeights | None:
        found = NATIVE.get(str(tensors["weight"].dtype))
        return None if found is None else NativeWeights(found, "weight")


BF16: Final = Bf16Format()
register(BF16)
