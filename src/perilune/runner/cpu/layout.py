"""The weights of a model as the C library wants them: rearranged in place, described as matrices.

The native layout is a permutation of the stored bits (`csrc/perilune_kernels.h`), so a weight stays
the single copy of itself and can be put back. Only three things are new memory: dense weights
quantised to int8 or INT4 on request (their originals are let go), `kv_b_proj` of FP8 checkpoints,
whose key part has to be transposed and is dequantised for it (1 % of a model), and a second copy of
the key part, not transposed, where prompts attend in the expanded form (0.1 %).

Shape suffixes: H heads, N width of a head's position-free part, V of its value, L latent rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from perilune.errors import UsageError
from perilune.kernels import native
from perilune.kernels.expert_table import ExpertTable
from perilune.kernels.native import GROUP, Format, Matrix
from perilune.kernels.native import Experts as NativeExperts
from perilune.kernels.quantization import FP8_BLOCK, quantize_int4
from perilune.model.attention import LatentAttention
from perilune.model.experts import Experts, RoutedExperts
from perilune.runner.cpu.network import Layer
from perilune.weights.formats import Fp8Experts, Fp8Linear, Int4Experts

FORMATS: Final = {
    torch.float32: Format.F32,
    torch.bfloat16: Format.BF16,
    torch.float8_e4m3fn: Format.FP8,
}
QUANTIZED_AT_ONCE: Final = 1 << 22  # values, in float32 then
PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")


class NativeLayout:
    """Rearranges weights one by one; remembers how to put each back, and what must stay alive."""

    def __init__(
        self, *, exact: bool, dense_format: Format | None = None, expanded: bool = False
    ) -> None:
        self.exact = exact
        self.dense_format = dense_format
        self.expanded = expanded
        self.keep: list[Tensor] = []
        self._library = native.require()
        self._undo: list[Callable[[], None]] = []
        self._quantized = False

    def restore(self) -> None:
        """Put every weight back as the modules know it. Raises UsageError after quantising."""
        if self._quantized:
            raise UsageError(
                "weights quantised at load cannot be put back", remedy="Load the model again"
            )
        while self._undo:
            self._undo.pop()()

    def vector(self, weight: Tensor) -> int:
        """Address of a float32 copy of a small weight (norms, biases, frequencies)."""
        return self._kept(weight.detach().to(torch.float32, copy=True).contiguous())

    def matrix(self, module: nn.Module, *, dense: bool = True) -> Matrix:
        """A linear module's weight. `dense`: dense_format applies to it."""
        weight = module.weight
        assert isinstance(weight, Tensor)
        if dense and self.dense_format is not None:
            whole = module.dequantize() if isinstance(module, Fp8Linear) else weight.detach()
            matrix = self._quantize(whole, weight.shape[0])
            module.weight = _gone(weight)
            return matrix
        scale = 0
        if isinstance(module, Fp8Linear):
            scale = self._kept(module.weight_scale_inv)
        return self._in_place(weight.detach(), scale)

    def up_projections(self, attention: LatentAttention, layer: Layer) -> None:
        """`kv_b_proj` -> key_up [L, N] and value_up [V, L] of every head, and their strides.

        For the expanded form also key_out [N, L], a copy of the key part as it is stored.
        """
        heads, nope = attention.num_heads, attention.nope_dim
        values, rank = attention.value_dim, attention.rank
        module = attention.kv_b_proj
        if isinstance(module, Fp8Linear):
            weight = module.dequantize(torch.float32 if self.exact else torch.bfloat16)
        else:
            weight = module.weight.detach()
        weight_HUL = weight.view(heads, nope + values, rank)
        if self.expanded:
            self._key_out(weight_HUL[:, :nope], layer)
        if self.dense_format is not None:
            key_HLN = weight_HUL[:, :nope].transpose(1, 2)
            layer.key_up = self._quantize(key_HLN.reshape(-1, nope), rank)
            layer.value_up = self._quantize(weight_HUL[:, nope:].reshape(-1, rank), values)
            for name, rows, columns in (("key_up", rank, nope), ("value_up", values, rank)):
                setattr(layer, f"{name}_stride", self._quantized_bytes(rows * columns))
                setattr(layer, f"{name}_scale_stride", rows * columns // GROUP * 2)
            module.weight = _gone(module.weight)
            return
        parts_HX = weight.view(heads, -1)
        key_HX, value_HX = parts_HX[:, : nope * rank], parts_HX[:, nope * rank :]
        key_HX.copy_(weight_HUL[:, :nope].transpose(1, 2).reshape(heads, -1))

        def transpose_back() -> None:
            key_HX.copy_(key_HX.reshape(heads, rank, nope).transpose(1, 2).flatten(1))

        self._undo.append(transpose_back)
        for head in range(heads):
            self._interleave(key_HX[head].view(rank, nope))
            self._interleave(value_HX[head].view(values, rank))
        address = self._kept(weight)
        width = weight.element_size()
        layer.key_up = Matrix(FORMATS[weight.dtype], 0, rank, nope, address, None)
        layer.value_up = Matrix(
            FORMATS[weight.dtype], 0, values, rank, address + nope * rank * width, None
        )
        layer.key_up_stride = layer.value_up_stride = (nope + values) * rank * width

    def _key_out(self, key_HNL: Tensor, layer: Layer) -> None:
        heads, nope, rank = key_HNL.shape
        if self.dense_format is not None:
            layer.key_out = self._quantize(key_HNL.reshape(-1, rank), nope)
            layer.key_out_stride = self._quantized_bytes(nope * rank)
            layer.key_out_scale_stride = nope * rank // GROUP * 2
            return
        copy_HNL = key_HNL.contiguous().clone()
        for head in range(heads):
            self._interleave(copy_HNL[head])
        layer.key_out = Matrix(FORMATS[copy_HNL.dtype], 0, nope, rank, self._kept(copy_HNL), None)
        layer.key_out_stride = nope * rank * copy_HNL.element_size()

    def experts(self, module: RoutedExperts) -> tuple[NativeExperts, ExpertTable]:
        """The experts of a layer, in whichever format they are stored, and where each lies."""
        table = ExpertTable(module.num_experts)
        for name in PROJECTIONS:
            part = name.removesuffix("_proj")
            if isinstance(module, Int4Experts):
                storage = Format.INT4
                packed, scale = getattr(module, f"{name}_packed"), getattr(module, f"{name}_scale")
                self._interleaved(packed.flatten(0, 1))
                self._interleaved_scale(scale.flatten(0, 1))
                table.stack(part, packed)
                table.stack(f"{part}_scale", scale)
            elif isinstance(module, Fp8Experts):
                storage = Format.FP8
                weight, scale = getattr(module, name), getattr(module, f"{name}_scale_inv")
                self._interleaved(weight.flatten(0, 1))
                self._kept(scale)
                table.stack(part, weight)
                table.stack(f"{part}_scale", scale)
            else:
                weight = getattr(module, name).detach()
                storage = FORMATS[weight.dtype]
                self._interleaved(weight.flatten(0, 1))
                table.stack(part, weight)
        self.keep.append(table.addresses)
        described = NativeExperts(
            format=storage,
            n_experts=module.num_experts,
            hidden=module.hidden_size,
            intermediate=module.intermediate_size,
            table=table.pointer,
        )
        return described, table

    def _in_place(self, weight: Tensor, scale: int) -> Matrix:
        rows, columns = weight.shape
        return Matrix(
            FORMATS[weight.dtype], 0, rows, columns, self._interleaved(weight), scale or None
        )

    def _quantized_bytes(self, values: int) -> int:
        return values // 2 if self.dense_format is Format.INT4 else values

    def _quantize(self, weight: Tensor, rows_of_one: int) -> Matrix:
        """Row-major [rows, columns], a stack of matrices -> small copies; describes the first."""
        rows, columns = weight.shape
        if columns % GROUP:
            raise UsageError(f"{columns} inputs do not divide into groups of {GROUP}")
        source = weight.to(torch.bfloat16).contiguous()
        scale = torch.empty(rows, columns // GROUP, dtype=torch.bfloat16)
        if self.dense_format is Format.INT4:
            small = torch.empty(rows, columns // 8, dtype=torch.int32)
            for first in range(0, rows, rows_of_one):
                part = slice(first, first + rows_of_one)
                self._quantize_int4(source[part], small[part], scale[part])
        else:
            small = torch.empty(rows, columns, dtype=torch.int8)
            for first in range(0, rows, rows_of_one):
                code = self._library.plk_quantize_int8(
                    source[first:].data_ptr(),
                    rows_of_one,
                    columns,
                    small[first:].data_ptr(),
                    scale[first:].data_ptr(),
                )
                native.check(code, "quantising a weight to int8")
        self._quantized = True
        assert self.dense_format is not None
        address = self._kept(small)
        return Matrix(self.dense_format, 0, rows_of_one, columns, address, self._kept(scale))

    def _quantize_int4(self, source: Tensor, words: Tensor, scale: Tensor) -> None:
        """One matrix by the published rule of INT4 experts, into the native layout."""
        at_once = max(1, QUANTIZED_AT_ONCE // source.shape[1])
        for first in range(0, source.shape[0], at_once):
            part = slice(first, first + at_once)
            try:
                words[part], scale[part] = quantize_int4(source[part])
            except ValueError as error:
                raise UsageError(f"a weight cannot be quantised to INT4: {error}") from None
        rows, groups = scale.shape
        native.check(
            self._library.plk_interleave(words.data_ptr(), rows, words.shape[1]), "rearranging"
        )
        native.check(
            self._library.plk_interleave_scale(scale.data_ptr(), rows, groups), "rearranging"
        )

    def _interleaved(self, weight: Tensor) -> int:
        self._interleave(weight)
        return self._kept(weight)

    def _interleave(self, weight: Tensor) -> None:
        """[rows, columns] of any width, in place; whole 32-bit words a row."""
        address = native.address(weight, weight.dtype)
        rows, words = weight.shape[0], weight.shape[1] * weight.element_size() // 4
        native.check(self._library.plk_interleave(address, rows, words), "rearranging a weight")
        self._undo.append(
            lambda: native.check(
                self._library.plk_deinterleave(address, rows, words), "putting a weight back"
            )
        )

    def _interleaved_scale(self, scale: Tensor) -> int:
        address = native.address(scale, torch.bfloat16)
        rows, groups = scale.shape
        native.check(self._library.plk_interleave_scale(address, rows, groups), "rearranging")
        self._undo.append(
            lambda: native.check(
                self._library.plk_deinterleave_scale(address, rows, groups), "putting back"
            )
        )
        return self._kept(scale)

    def _kept(self, tensor: Tensor) -> int:
        native.advise_huge_pages(tensor)
        self.keep.append(tensor)
        return native.address(tensor, tensor.dtype)


def _gone(weight: Tensor) -> nn.Parameter:
    """What a module holds after its weight was let go: the shape, no memory."""
    return nn.Parameter(weight.detach().to("meta"), requires_grad=False)


def unfit(model: nn.Module) -> str | None:
    """Why the weights of this model cannot be laid out for the C library, or None."""
    for name, module in model.named_modules():
        if isinstance(module, Int4Experts) and module.group_size != GROUP:
            return f"{name}: INT4 groups of {module.group_size}, the kernels have {GROUP}"
        if isinstance(module, Fp8Linear | Fp8Experts) and tuple(module.block) != FP8_BLOCK:
            return f"{name}: FP8 blocks of {module.block}, the kernels have {FP8_BLOCK}"
        if isinstance(module, RoutedExperts) and not isinstance(
            module, Experts | Int4Experts | Fp8Experts
        ):
            return f"{name}: experts of type {type(module).__name__}"
        for kind, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers("", False),
        ):
            if tensor.device.type != "cpu":
                return f"{name}.{kind} is on {tensor.device}"
            if not tensor.is_contiguous():
                return f"{name}.{kind} is not contiguous"
            if tensor.dtype not in FORMATS and tensor.dtype != torch.int32:
                return f"{name}.{kind} is {tensor.dtype}"
    return None
