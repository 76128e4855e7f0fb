"""The weights of a model as the C library wants them: rearranged in place, described as matrices.

The native layout is a permutation of the stored bits (`csrc/perilune_kernels.h`), so a weight stays
the single copy of itself and can be put back. Only three things are new memory: dense weights
quantised to int8 or INT4 on request (their originals are let go), `kv_b_proj` of FP8 checkpoints,
whose key part has to be transposed and is dequantised for it (1 % of a model), and a second copy of
the key part, not transposed, where prompts attend in the expanded form (0.1 %).

Shape suffixes: H heads, N width of a head's position-free part, V of its value, L latent rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from perilune.errors import UsageError
from perilune.formats import Role, StorageFormat
from perilune.formats.format import NativeWeights
from perilune.kernels import native
from perilune.kernels.expert_table import ExpertTable
from perilune.kernels.native import GROUP, Form, Format, Matrix
from perilune.kernels.native import Experts as NativeExperts
from perilune.model.attention import LatentAttention
from perilune.model.experts import RoutedExperts
from perilune.runner.cpu.network import Layer
from perilune.weights.header import tensor_bytes
from perilune.weights.reader import TORCH_DTYPES
from perilune.weights.stored import (
    PROJECTIONS,
    StoredExperts,
    StoredLinear,
    stored_experts,
    stored_formats,
    stored_matrix,
)

PLAIN: Final = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}
QUANTIZED_AT_ONCE: Final = 1 << 22  # values, in float32 then


class NativeLayout:
    """Rearranges weights one by one; remembers how to put each back, and what must stay alive."""

    def __init__(
        self, *, exact: bool, dense_format: StorageFormat | None = None, expanded: bool = False
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
        storage, tensors = stored_matrix(module)
        wanted = self.dense_format if dense else None
        if wanted is not None and wanted.name != storage.name:
            whole = storage.dequantize(tensors, torch.bfloat16)
            matrix = self._quantize(whole, whole.shape[0])
            _let_go(module, tensors)
            return matrix
        described = _native(storage, tensors)
        values = tensors[described.values]
        rows = values.shape[0]
        columns = values.shape[1] * values.element_size() * 8 // _bits(described)
        address, scale = self._in_place(described, tensors)
        return Matrix(Format[described.format], 0, rows, columns, address, scale or None)

    def up_projections(self, attention: LatentAttention, layer: Layer) -> None:
        """`kv_b_proj` -> key_up [L, N] and value_up [V, L] of every head, and their strides.

        For the expanded form also key_out [N, L], a copy of the key part as it is stored.
        """
        heads, nope = attention.num_heads, attention.nope_dim
        values, rank = attention.value_dim, attention.rank
        module = attention.kv_b_proj
        storage, tensors = stored_matrix(module)
        weight = tensors.get("weight")
        if weight is None or weight.dtype not in PLAIN:
            weight = storage.dequantize(tensors, torch.float32 if self.exact else torch.bfloat16)
        weight_HUL = weight.view(heads, nope + values, rank)
        if self.expanded:
            self._key_out(weight_HUL[:, :nope], layer)
        if self.dense_format is not None:
            key_HLN = weight_HUL[:, :nope].transpose(1, 2)
            layer.key_up = self._quantize(key_HLN.reshape(-1, nope), rank)
            layer.value_up = self._quantize(weight_HUL[:, nope:].reshape(-1, rank), values)
            for name, rows, columns in (("key_up", rank, nope), ("value_up", values, rank)):
                setattr(layer, f"{name}_stride", self._quantized_bytes(rows, columns))
                setattr(layer, f"{name}_scale_stride", rows * columns // GROUP * 2)
            _let_go(module, tensors)
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
        layer.key_up = Matrix(PLAIN[weight.dtype], 0, rank, nope, address, None)
        layer.value_up = Matrix(
            PLAIN[weight.dtype], 0, values, rank, address + nope * rank * width, None
        )
        layer.key_up_stride = layer.value_up_stride = (nope + values) * rank * width

    def _key_out(self, key_HNL: Tensor, layer: Layer) -> None:
        heads, nope, rank = key_HNL.shape
        if self.dense_format is not None:
            layer.key_out = self._quantize(key_HNL.reshape(-1, rank), nope)
            layer.key_out_stride = self._quantized_bytes(nope, rank)
            layer.key_out_scale_stride = nope * rank // GROUP * 2
            return
        copy_HNL = key_HNL.contiguous().clone()
        for head in range(heads):
            self._interleave(copy_HNL[head])
        layer.key_out = Matrix(PLAIN[copy_HNL.dtype], 0, nope, rank, self._kept(copy_HNL), None)
        layer.key_out_stride = nope * rank * copy_HNL.element_size()

    def experts(self, module: RoutedExperts) -> tuple[NativeExperts, ExpertTable]:
        """The experts of a layer, in whichever format they are stored, and where each lies."""
        table = ExpertTable(module.num_experts)
        for name in PROJECTIONS:
            part = name.removesuffix("_proj")
            found = stored_experts(module, name)
            assert found is not None  # `unfit` has looked
            storage, stacked = found
            described = _native(storage, stacked)
            tall = {suffix: tensor.flatten(0, 1) for suffix, tensor in stacked.items()}
            self._in_place(described, tall)
            table.stack(part, stacked[described.values])
            if described.scale is not None:
                table.stack(f"{part}_scale", stacked[described.scale])
        self.keep.append(table.addresses)
        experts = NativeExperts(
            format=Format[described.format],
            n_experts=module.num_experts,
            hidden=module.hidden_size,
            intermediate=module.intermediate_size,
            table=table.pointer,
        )
        return experts, table

    def _in_place(self, described: NativeWeights, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
        """Rearrange the values (and scales); their addresses, 0 where there is no scale."""
        values = tensors[described.values]
        if described.evens_first:
            self._put_evens_first(values)
        address = self._interleaved(values)
        if described.scale is None:
            return address, 0
        scale = tensors[described.scale]
        if described.scale_interleaved:
            return address, self._interleaved_scale(scale)
        return address, self._kept(scale)

    def _put_evens_first(self, values: Tensor) -> None:
        """Of each eight inputs the even ones, then the odd ones; bytes [rows, columns], in place.

        The nibbles of INT4 words come apart in that order, and activations are stored in it.
        """
        _move_eights(values, (4, 2))
        self._undo.append(lambda: _move_eights(values, (2, 4)))

    def _quantized_bytes(self, rows: int, columns: int) -> int:
        assert self.dense_format is not None
        layout = self.dense_format.matrix_tensors(rows, columns)
        return sum(
            tensor_bytes(each.dtype, each.shape) for each in layout if each.role is Role.VALUES
        )

    def _quantize(self, weight: Tensor, rows_of_one: int) -> Matrix:
        """Row-major [rows, columns], a stack of matrices -> small copies; describes the first."""
        storage = self.dense_format
        assert storage is not None
        rows, columns = weight.shape
        if columns % GROUP:
            raise UsageError(f"{columns} inputs do not divide into groups of {GROUP}")
        source = weight.to(torch.bfloat16).contiguous()
        small = _empty_tensors(storage, rows, columns)
        described = _native(storage, small)
        values, scale = small[described.values], small[described.scale or ""]
        for first in range(0, rows, rows_of_one):
            part = slice(first, first + rows_of_one)
            self._quantize_one(storage, described, source[part], values[part], scale[part])
        self._quantized = True
        address = self._kept(values)
        form = Format[described.format]
        return Matrix(form, 0, rows_of_one, columns, address, self._kept(scale))

    def _quantize_one(
        self,
        storage: StorageFormat,
        described: NativeWeights,
        source: Tensor,
        values: Tensor,
        scale: Tensor,
    ) -> None:
        """One matrix by the rule of the format, into the native layout."""
        if described.quantizer is not None:
            quantize = getattr(self._library, described.quantizer)
            code = quantize(source.data_ptr(), *source.shape, values.data_ptr(), scale.data_ptr())
            native.check(code, f"quantising a weight to {storage.name}")
            return
        at_once = max(1, QUANTIZED_AT_ONCE // source.shape[1])
        for first in range(0, source.shape[0], at_once):
            part = slice(first, first + at_once)
            try:
                made = storage.quantize(source[part])
            except ValueError as error:
                raise UsageError(
                    f"a weight cannot be quantised to {storage.name}: {error}"
                ) from None
            values[part], scale[part] = made[described.values], made[described.scale or ""]
        rows, words = values.shape[0], values.shape[1] * values.element_size() // 4
        native.check(self._library.plk_interleave(values.data_ptr(), rows, words), "rearranging")
        native.check(
            self._library.plk_interleave_scale(scale.data_ptr(), rows, scale.shape[1]),
            "rearranging",
        )

    def _interleaved(self, weight: Tensor) -> int:
        self._interleave(weight)
        return self._kept(weight)

    def _interleave(self, weight: Tensor) -> None:
        """[rows, columns] of any width, in place; whole 32-bit words per row."""
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


def _native(storage: StorageFormat, tensors: Mapping[str, Tensor]) -> NativeWeights:
    found = storage.native(tensors)
    assert found is not None  # `unfit` has looked
    return found


def _bits(described: NativeWeights) -> int:
    """Of one value in the native layout."""
    bits = {Format.F32: 32, Format.BF16: 16, Format.FP8: 8, Format.INT8: 8, Format.INT4: 4}
    return bits[Format[described.format]]


def _empty_tensors(storage: StorageFormat, rows: int, columns: int) -> dict[str, Tensor]:
    return {
        each.suffix: torch.empty(each.shape, dtype=TORCH_DTYPES[each.dtype])
        for each in storage.matrix_tensors(rows, columns)
    }


def _move_eights(values: Tensor, split: tuple[int, int]) -> None:
    """Transpose each eight neighbours of a row as a matrix of that shape, in place, by rows."""
    at_once = max(1, QUANTIZED_AT_ONCE // max(1, values.shape[1]))
    for start in range(0, values.shape[0], at_once):
        part = values[start : start + at_once]
        eights = part.view(part.shape[0], -1, *split)
        part.copy_(eights.transpose(2, 3).reshape(part.shape))


def _let_go(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Free a module's weight; what it holds afterwards has the shape and no memory."""
    for suffix, tensor in tensors.items():
        gone = tensor.detach().to("meta")
        is_parameter = suffix in module._parameters
        setattr(module, suffix, nn.Parameter(gone, requires_grad=False) if is_parameter else gone)


def unfit(model: nn.Module, *, exact: bool = False, device: str = "cpu") -> str | None:
    """Why the weights of this model cannot be laid out for the C library, or None.

    `device` is where they have to be: "meta" for a model whose weights will come to the CPU.
    """
    for name, storage in stored_formats(model):
        if cause := storage.no_native():
            return f"{name}: {cause}"
    return _odd_tensor(model, device) or _odd_module(model, exact)


def _odd_module(model: nn.Module, exact: bool) -> str | None:
    """A format that the library does not have, or does not have with float32 activations."""
    for name, module in model.named_modules():
        if isinstance(module, RoutedExperts):
            found = stored_experts(module, PROJECTIONS[0])
            if found is None:
                return f"{name}: experts of type {type(module).__name__}"
        elif isinstance(module, nn.Linear | StoredLinear):
            found = stored_matrix(module)
        else:
            continue
        storage, tensors = found
        described = storage.native(tensors)
        if described is None:
            dtypes = ", ".join(str(tensor.dtype) for tensor in tensors.values())
            return f"{name} is {storage.name} ({dtypes})"
        form = Format[described.format]
        if exact and native.form_for(form, exact=True) is Form.INT8:
            return f"{name} is {storage.name}, which the kernels have no exact arithmetic for"
    return None


def _odd_tensor(model: nn.Module, device: str) -> str | None:
    in_format = {
        id(tensor)
        for module in model.modules()
        if isinstance(module, StoredLinear | StoredExperts)
        for tensor in module.buffers(recurse=False)
    }
    for name, module in model.named_modules():
        for kind, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers("", False),
        ):
            if tensor.device.type != device:
                return f"{name}.{kind} is on {tensor.device}"
            if not tensor.is_contiguous():
                return f"{name}.{kind} is not contiguous"
            if tensor.dtype not in PLAIN and id(tensor) not in in_format:
                return f"{name}.{kind} is {tensor.dtype}"
    return None
