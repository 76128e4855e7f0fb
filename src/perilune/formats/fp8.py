"""fp8: float8_e4m3fn values and one float32 factor a block, as K2-Instruct is published.

All projections of all layers; embeddings, head, router and norms stay bfloat16. The factor is
multiplied in spite of its published name, `weight_scale_inv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from perilune.config_fields import MAX_SIZE, STORED, USED, Field, check_fields, checked, table
from perilune.errors import ConfigError
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

NATIVE_BLOCK: Final = (128, 128)
FIELDS: Final[Mapping[str, Field]] = table(
    ("quant_method weight_block_size", USED),
    ("fmt", checked("e4m3")),
    ("activation_scheme", checked("dynamic", None)),
    ("scale_fmt dequantize modules_to_not_convert ignored_layers", STORED),
)
_COVERED: Final = frozenset(
    {Part.ATTENTION, Part.DENSE_MLP, Part.SHARED_EXPERTS, Part.ROUTED_EXPERTS}
)


@dataclass(frozen=True)
class Fp8Format(StorageFormat):
    """`block`: rows and columns that share a factor; at the edges blocks are smaller."""

    block: tuple[int, int] = NATIVE_BLOCK

    name: ClassVar[str] = "fp8"
    published_as: ClassVar[str] = "fp8 blocks"
    leftovers: ClassVar[tuple[str, ...]] = ("weight_scale_inv",)
    config_tables: ClassVar[Mapping[str, Mapping[str, Field]]] = {
        "`quantization_config` of FP8": FIELDS
    }
    random_std: ClassVar[float] = 96.0  # largest 448, as a normal distribution would have

    def covers(self, name: str, part: Part) -> bool:
        return part in _COVERED

    def matrix_tensors(self, rows: int, columns: int) -> tuple[TensorLayout, ...]:
        factors = (-(-rows // self.block[0]), -(-columns // self.block[1]))
        return (
            TensorLayout("weight", "F8_E4M3", (rows, columns), Role.VALUES),
            TensorLayout("weight_scale_inv", "F32", factors, Role.SCALE),
        )

    @property
    def bits(self) -> float:
        return 8 + 32 / (self.block[0] * self.block[1])

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        from perilune.kernels.quantization import quantize_fp8_block

        values, factors = quantize_fp8_block(weight_OI, self.block)
        return {"weight": values, "weight_scale_inv": factors}

    def dequantize(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        from perilune.kernels.quantization import dequantize_fp8_block

        values, factors = tensors["weight"], tensors["weight_scale_inv"]
        return dequantize_fp8_block(values, factors, self.block, dtype)

    def random_values(self, raw: NDArray[np.uint8]) -> Tensor:
        """The 256 quantiles of a normal distribution, as e4m3."""
        import torch

        quantile = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
        values = (torch.special.ndtri(quantile) * self.random_std).clamp(-448, 448)
        lookup = values.float().to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
        translated = bytearray(raw.tobytes().translate(lookup))
        return torch.frombuffer(translated, dtype=torch.uint8).view(torch.float8_e4m3fn)

    def reads_as_published(self) -> bool | None:
        """S.1111.110 is -448, 0.0000.001 is 2^-9."""
        import torch

        from perilune.kernels.quantization import dequantize_fp8_block

        stored = torch.tensor([[0xFE, 0x01]], dtype=torch.uint8).view(torch.float8_e4m3fn)
        value = dequantize_fp8_block(stored, torch.tensor([[0.5]]))
        return value.tolist() == [[-224.0, 2.0**-10]]

    def claims(self, raw: Mapping[str, Any]) -> int:
        return 2 if raw.get("quant_method") == "fp8" else 0

    def from_config(self, raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
        check_fields(raw, FIELDS, "quantization_config", file, closed=True)
        block = raw.get("weight_block_size", [128, 128])
        sizes = block if isinstance(block, list) else []
        if (
            raw.get("fmt", "e4m3") != "e4m3"
            or len(sizes) != 2
            or not all(type(b) is int and 1 <= b <= MAX_SIZE for b in sizes)
        ):
            raise ConfigError(
                "only the published FP8 layout is read (e4m3, weight_block_size [rows, columns])",
                file=file,
            )
        return Fp8Format((sizes[0], sizes[1]))

    def quantization_config(self) -> dict[str, Any] | None:
        return {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": list(self.block),
        }

    def native(self, tensors: Mapping[str, Tensor]) -> NativeWeights | None:
        return NativeWeights("FP8", "weight", "weight_scale_inv")

    def no_native(self) -> str:
        fits = self.block == NATIVE_BLOCK
        return "" if fits else f"FP8 blocks of {self.block}, the kernels have {NATIVE_BLOCK}"


FP8: Final = Fp8Format()
register(FP8)
