"""One matrix, or the stacked experts of a layer, in the native layout, with the products on them.

Tensors are rearranged in place: the native layout is a permutation of the stored bits, so nothing
is lost and no second copy exists. `csrc/perilune_kernels.h` describes it.

Shape suffixes: T rows, I inputs, O outputs, E experts, D hidden, F expert hidden, K experts per
row.
"""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from torch import Tensor

from perilune.errors import UsageError
from perilune.kernels import native
from perilune.kernels.expert_table import PARTS, ExpertTable
from perilune.kernels.native import GROUP, Experts, Format, Matrix

PLAIN: Final = {
    torch.float32: Format.F32,
    torch.bfloat16: Format.BF16,
    torch.float8_e4m3fn: Format.FP8,
}
FP8_BLOCK: Final = 128
# Rows of one call: bounds the workspace (intermediate values of all rows times top-k).
MOST_ROWS: Final = 2048


class NativeMatrix:
    """Weights W [O, I] of y = W x in the native layout. O is any number, I a multiple of 32."""

    def __init__(self, storage: Format, weight: Tensor, scale: Tensor | None, inputs: int) -> None:
        self.format, self.weight, self.scale = storage, weight, scale
        self.out_features, self.in_features = weight.shape[0], inputs
        self._matrix = Matrix(
            storage,
            0,
            self.out_features,
            inputs,
            weight.data_ptr(),
            None if scale is None else scale.data_ptr(),
        )

    @classmethod
    def from_plain_(cls, weight_OI: Tensor, scale_inv: Tensor | None = None) -> NativeMatrix:
        """Take over float32, bfloat16 or FP8 (128 x 128 blocks) weights; rearranges them in place.

        Raises UsageError for another dtype, layout or shape.
        """
        storage = PLAIN.get(weight_OI.dtype)
        if storage is None:
            raise UsageError(f"no native layout for weights of {weight_OI.dtype}")
        _expect_groups(weight_OI.shape[1])
        address = native.address(weight_OI, weight_OI.dtype)
        if storage is Format.FP8:
            _expect_fp8(weight_OI, scale_inv)
        native.advise_huge_pages(weight_OI)
        words = weight_OI.shape[1] * weight_OI.element_size() // 4
        library = native.require()
        native.check(library.plk_interleave(address, weight_OI.shape[0], words), "interleave")
        return cls(storage, weight_OI, scale_inv, weight_OI.shape[1])

    @classmethod
    def from_int4_(cls, packed_OW: Tensor, scale_OG: Tensor) -> NativeMatrix:
        """Take over packed int32 [O, I/8] and bfloat16 scales [O, I/32]; rearranges in place."""
        inputs = packed_OW.shape[1] * 8
        _expect_groups(inputs)
        _expect_shape(scale_OG, (packed_OW.shape[0], inputs // GROUP))
        _interleave_int4_(packed_OW, scale_OG)
        return cls(Format.INT4, packed_OW, scale_OG, inputs)

    @classmethod
    def quantize(cls, weight_OI: Tensor) -> NativeMatrix:
        """An int8 copy, groups of 32 inputs with one bfloat16 scale; the original is untouched."""
        outputs, inputs = weight_OI.shape
        _expect_groups(inputs)
        source = weight_OI.detach().to(torch.bfloat16).contiguous()
        if not bool(source.isfinite().all()):
            raise UsageError("int8 cannot hold weights that are not finite")
        q = torch.empty(outputs, inputs, dtype=torch.int8)
        scale = torch.empty(outputs, inputs // GROUP, dtype=torch.bfloat16)
        for tensor in (q, scale):
            native.advise_huge_pages(tensor)
        code = native.require().plk_quantize_int8(
            native.address(source, torch.bfloat16), outputs, inputs, q.data_ptr(), scale.data_ptr()
        )
        native.check(code, "quantising to int8")
        return cls(Format.INT8, q, scale, inputs)

    def linear(self, x: Tensor, *, exact: bool = False) -> Tensor:
        """x [..., I] -> float32 [..., O]. `exact`: float32 activations, where the format has them.

        A row's result does not depend on the rows around it.
        """
        if x.shape[-1] != self.in_features:
            raise UsageError(f"the matrix takes {self.in_features} inputs, not {x.shape[-1]}")
        x_TI = _float_rows(x)
        y_TO = torch.empty(x_TI.shape[0], self.out_features)
        code = native.require().plk_linear(
            ctypes.byref(self._matrix),
            x_TI.data_ptr(),
            self.in_features,
            x_TI.shape[0],
            y_TO.data_ptr(),
            self.out_features,
            int(exact),
        )
        native.check(code, "linear")
        return y_TO.view(*x.shape[:-1], self.out_features)


class NativeExpertStack:
    """The routed experts of a layer: gate, up [E, F, D] and down [E, D, F] of one format."""

    def __init__(self, storage: Format, weights: list[Tensor], scales: list[Tensor]) -> None:
        self.format, self.weights, self.scales = storage, weights, scales
        gate, _, down = weights
        self.num_experts, self.intermediate_size, self.hidden_size = (
            gate.shape[0],
            gate.shape[1],
            down.shape[1],
        )
        self.table = ExpertTable(self.num_experts)
        for part, tensor in zip(PARTS, (*weights, *scales), strict=False):
            self.table.stack(part, tensor)
        self._experts = Experts(
            storage,
            0,
            self.num_experts,
            self.hidden_size,
            self.intermediate_size,
            self.table.pointer,
        )

    @classmethod
    def from_int4_(cls, packed: list[Tensor], scales: list[Tensor]) -> NativeExpertStack:
        """Take over gate, up, down: int32 [E, out, in/8] and bfloat16 [E, out, in/32]. In place."""
        for packed_EOW, scale_EOG in zip(packed, scales, strict=True):
            experts, outputs, words = packed_EOW.shape
            _expect_groups(outputs)
            _expect_groups(words * 8)
            _expect_shape(scale_EOG, (experts, outputs, words * 8 // GROUP))
        for packed_EOW, scale_EOG in zip(packed, scales, strict=True):
            # Whole blocks of 16 rows per expert, so all experts are one tall matrix.
            _interleave_int4_(packed_EOW.flatten(0, 1), scale_EOG.flatten(0, 1))
        return cls(Format.INT4, packed, scales)

    @classmethod
    def from_plain_(
        cls, weights: list[Tensor], scales_inv: list[Tensor] | None = None
    ) -> NativeExpertStack:
        """Take over gate, up, down in float32, bfloat16 or FP8 (with factors). In place."""
        storage = PLAIN.get(weights[0].dtype)
        if storage is None or any(w.dtype != weights[0].dtype for w in weights):
            raise UsageError(f"no native layout for experts of {[w.dtype for w in weights]}")
        for i, weight_EOI in enumerate(weights):
            _expect_groups(weight_EOI.shape[1])
            _expect_groups(weight_EOI.shape[2])
            if storage is Format.FP8:
                scale = None if scales_inv is None else scales_inv[i]
                _expect_fp8(weight_EOI, scale)
        for weight_EOI in weights:
            rows = weight_EOI.flatten(0, 1)
            native.advise_huge_pages(rows)
            code = native.require().plk_interleave(
                native.address(rows, rows.dtype),
                rows.shape[0],
                rows.shape[1] * rows.element_size() // 4,
            )
            native.check(code, "interleave")
        return cls(storage, weights, scales_inv or [])

    def forward(
        self, x_TD: Tensor, weights_TK: Tensor, indices_TK: Tensor, *, exact: bool = False
    ) -> Tensor:
        """sum over k of weights[t, k] * expert_{indices[t, k]}(x[t]), float32 [T, D].

        The sum runs in ascending expert number; a row's result does not depend on the rows around
        it. Raises KernelError for an index outside the experts, UsageError for shapes.
        """
        if x_TD.ndim != 2 or x_TD.shape[1] != self.hidden_size:
            raise UsageError(f"x must be [rows, {self.hidden_size}], not {tuple(x_TD.shape)}")
        _expect_shape(weights_TK, (x_TD.shape[0], indices_TK.shape[1]))
        _expect_shape(indices_TK, tuple(weights_TK.shape))
        library = native.require()
        y_TD = torch.empty(x_TD.shape, dtype=torch.float32)
        for start in range(0, x_TD.shape[0], MOST_ROWS):
            rows = slice(start, start + MOST_ROWS)
            x, y = _float_rows(x_TD[rows]), y_TD[rows]
            weights = weights_TK[rows].to(torch.float32).contiguous()
            indices = indices_TK[rows].to(torch.int32).contiguous()
            code = library.plk_experts_forward(
                ctypes.byref(self._experts),
                x.data_ptr(),
                self.hidden_size,
                x.shape[0],
                indices.data_ptr(),
                weights.data_ptr(),
                indices.shape[1],
                y.data_ptr(),
                self.hidden_size,
                int(exact),
            )
            native.check(code, "routed experts")
        return y_TD


def _float_rows(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        raise UsageError(f"the C kernels compute on the CPU, but the input is on {x.device}")
    if torch.is_grad_enabled() and x.requires_grad:
        raise UsageError(
            "native kernels have no gradient", remedy="Train with the plain modules, or no_grad()"
        )
    return x.detach().reshape(-1, x.shape[-1]).to(torch.float32).contiguous()


def _interleave_int4_(packed_OW: Tensor, scale_OG: Tensor) -> None:
    library = native.require()
    packed_at = native.address(packed_OW, torch.int32)
    scale_at = native.address(scale_OG, torch.bfloat16)
    for tensor in (packed_OW, scale_OG):
        native.advise_huge_pages(tensor)
    native.check(library.plk_interleave(packed_at, *packed_OW.shape), "interleave")
    native.check(library.plk_interleave_scale(scale_at, *scale_OG.shape), "interleave")


def _expect_groups(n: int) -> None:
    if n % GROUP or n == 0:
        raise UsageError(f"the kernels take sizes that are multiples of {GROUP}, not {n}")


def _expect_shape(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise UsageError(f"a tensor has shape {tuple(tensor.shape)}; {shape} is needed")


def _expect_fp8(weight: Tensor, scale_inv: Tensor | None) -> None:
    blocks = tuple(-(-n // FP8_BLOCK) for n in weight.shape[-2:])
    if scale_inv is None:
        raise UsageError("FP8 weights need one scale per block")
    _expect_shape(scale_inv, (*weight.shape[:-2], *blocks))
    native.address(scale_inv, torch.float32)
    n_nan = native.require().plk_fp8_count_nan(weight.data_ptr(), weight.numel())
    if n_nan:
        raise UsageError(f"{n_nan} FP8 weights are NaN; the kernels would read them as 480")
