"""`VisionEncoder`: patches of pictures -> the vectors that stand among the tokens, fast.

On a CPU with the C library the products and the attention run there (`csrc/vision.h`), activations
in float32; else the tower's own modules compute. What each picture gets does not depend, to the
bit, on the pictures that share a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.errors import UsageError
from perilune.kernels import native
from perilune.kernels.matrix import NativeMatrix
from perilune.kernels.native import GROUP, Form, Format, Matrix
from perilune.model.model import KimiK2Model
from perilune.model.vision.grids import Grids, patch_counts
from perilune.model.vision.operators import PLAIN, Gelu, VisionOperators
from perilune.model.vision.tower import VisionMLP

FORMATS: Final = {torch.float32: Format.F32, torch.bfloat16: Format.BF16}
GELU: Final = {None: 0, "tanh": 1, "none": 2}  # `plk_gelu`; "none" is exact, by erf
MLP_ROWS: Final = 960  # patches whose inner values stay in the caches between the two products


class VisionEncoder:
    """Takes the tower and the projector of a model over: their weights are rearranged in place.

    `native`: True: the C kernels or an error; False: the model's own modules; None: what there is.
    `exact`: float32 activations where the processor would take bfloat16 ones. `dense_format`:
    "int8" quantises the products at load, in groups of 32; "int4" leaves the tower as it is stored,
    for nothing is known of what four bits do to it. Raises UsageError, also without a tower.
    """

    def __init__(
        self,
        model: KimiK2Model,
        *,
        native: bool | None = None,
        exact: bool = False,
        dense_format: str | None = None,
    ) -> None:
        if model.vision is None:
            raise UsageError(
                "this model has no vision tower",
                remedy="Load a K2.5 checkpoint that holds one, with vision=True",
            )
        self.model = model
        cause = "torch was asked for" if native is False else self.unsupported(model)
        if native and cause is not None:
            raise UsageError(f"the C kernels cannot run this tower: {cause}", remedy="native=None")
        self.is_native = cause is None
        self._operators: VisionOperators = PLAIN
        if self.is_native:
            self._operators = NativeVision(model, exact=exact, quantize=dense_format == "int8")

    @staticmethod
    def unsupported(model: KimiK2Model) -> str | None:
        """Why this tower needs its own modules, or None."""
        if not native.available():
            return "the C library is not there"
        for tower in (model.vision_tower, model.mm_projector):
            for name, tensor in tower.named_parameters() if tower is not None else ():
                if tensor.device.type != "cpu" or tensor.dtype not in FORMATS:
                    return f"{name} is {tensor.dtype} on {tensor.device}"
        return None

    def encode(self, patches: Tensor, grids: Grids) -> Tensor:
        """Patches [P, 3*p*p] and grids [S, 3] of any number of items -> float32 [tokens, D], CPU.

        As `KimiK2Model.encode_pictures`; `token_counts(grids)` rows an item. Raises UsageError.
        """
        run = self.start(patches, grids)
        while (vectors := run.advance()) is None:
            pass
        return vectors

    def start(self, patches: Tensor, grids: Grids) -> EncoderRun:
        """`encode`, one block of the tower at a time: for who has other things to do in between."""
        return EncoderRun(self._walk(patches, grids), sum(patch_counts(grids)))

    @property
    def num_blocks(self) -> int:
        """Calls of `EncoderRun.advance` that a run takes, but for the last, which is short."""
        assert self.model.vision_tower is not None
        return len(self.model.vision_tower.encoder.blocks)

    def _walk(self, patches: Tensor, grids: Grids) -> Generator[None, None, Tensor]:
        tower, projector = self.model.vision_tower, self.model.mm_projector
        assert tower is not None and projector is not None
        if not self.is_native:
            patches = patches.to(tower.patch_embed.proj.weight.device)
        x = yield from tower.walk(patches, grids, self._operators)
        vectors: Tensor = projector(x, self._operators)
        return vectors.float().cpu()


class EncoderRun:
    """Items on their way through the tower. `patches`: of all of them."""

    def __init__(self, walk: Generator[None, None, Tensor], patches: int) -> None:
        self.patches = patches
        self._walk = walk

    @torch.inference_mode()
    def advance(self) -> Tensor | None:
        """One block more; the vectors, float32 [tokens, D] on the CPU, when it was the last.

        Raises UsageError, at the first call, for patches that do not fit their grids.
        """
        try:
            next(self._walk)
        except StopIteration as end:
            vectors: Tensor = end.value
            return vectors
        return None


class NativeVision(VisionOperators):
    """The operations by the C kernels, float32 between them."""

    def __init__(self, model: KimiK2Model, *, exact: bool, quantize: bool) -> None:
        self._products: dict[nn.Module, _Product] = {}
        self._norms: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for part in (model.vision_tower, model.mm_projector):
            assert part is not None
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    self._products[module] = _product(module, exact=exact, quantize=quantize)
                elif isinstance(module, nn.LayerNorm):
                    weights = module.weight.detach().float(), module.bias.detach().float()
                    self._norms[module] = weights

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._products[module](x, None)

    def gelu_linear(self, module: nn.Module, x: Tensor, approximate: Gelu) -> Tensor:
        return self._products[module](x, approximate)

    def add_linear(self, module: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
        return self._products[module](x, None, add_to=residual)

    def add_mlp(self, norm: nn.LayerNorm, mlp: VisionMLP, x: Tensor) -> Tensor:
        for rows in torch.split(x, MLP_ROWS):
            inner = self.gelu_linear(mlp.fc0, self.norm(norm, rows), "tanh")
            self.add_linear(mlp.fc1, inner, rows)
        return x

    def norm(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        weight, bias = self._norms[module]
        return F.layer_norm(x, weight.shape, weight, bias, module.eps)

    def embed(self, module: nn.Conv2d, patches: Tensor) -> Tensor:
        return self._products[module](patches.float(), None)

    def attend(
        self,
        qkv: Tensor,
        num_heads: int,
        rotation: tuple[Tensor, Tensor],
        counts: Sequence[int],
    ) -> Tensor:
        width = qkv.shape[1] // 3
        out = torch.empty(qkv.shape[0], width)
        code = native.require().plk_item_attention(
            native.address(qkv, torch.float32),
            (ctypes.c_int64 * len(counts))(*counts),
            len(counts),
            num_heads,
            width // num_heads,
            *(native.address(each, torch.float32) for each in rotation),
            out.data_ptr(),
        )
        native.check(code, "attention of pictures")
        return out


class _Product:
    """y = gelu(W x + bias) of one module, by `plk_dense`. The weight is rearranged in place."""

    def __init__(self, weight_OI: Tensor, bias: Tensor) -> None:
        self.outputs, self.inputs = weight_OI.shape
        storage = FORMATS[weight_OI.dtype]
        if storage is Format.BF16 and self.inputs % 2:  # words hold two inputs
            weight_OI = F.pad(weight_OI, (0, 1))
        self.padded = weight_OI.shape[1]
        self._bias = bias.detach().float().contiguous()
        self._weight = weight_OI
        native.advise_huge_pages(weight_OI)
        words = self.padded * weight_OI.element_size() // 4
        at = native.address(weight_OI, weight_OI.dtype)
        native.check(native.require().plk_interleave(at, self.outputs, words), "interleave")
        self._matrix = Matrix(storage, 0, self.outputs, self.padded, at, None)

    def __call__(self, x: Tensor, gelu: Gelu | None, add_to: Tensor | None = None) -> Tensor:
        """x float32 [rows, I] -> [rows, O]; `add_to` [rows, O] is added to, and returned."""
        x = _padded(x, self.padded)
        y = torch.empty(x.shape[0], self.outputs) if add_to is None else add_to
        code = native.require().plk_dense(
            ctypes.byref(self._matrix),
            self._bias.data_ptr(),
            native.address(x, torch.float32),
            x.shape[1],
            x.shape[0],
            native.address(y, torch.float32),
            self.outputs,
            GELU[gelu],
            int(add_to is not None),
        )
        native.check(code, "a product of the vision tower")
        return y


class _TiledProduct(_Product):
    """The same by `NativeMatrix`: int8, or bfloat16 where the processor multiplies it."""

    def __init__(self, weight_OI: Tensor, bias: Tensor, *, exact: bool, quantize: bool) -> None:
        self.outputs, self.inputs = weight_OI.shape
        self.padded = -(-self.inputs // GROUP) * GROUP
        weight_OI = F.pad(weight_OI, (0, self.padded - self.inputs))
        self._bias = bias.detach().float()
        make = NativeMatrix.quantize if quantize else NativeMatrix.from_plain_
        self._rows, self._exact = make(weight_OI), exact

    def __call__(self, x: Tensor, gelu: Gelu | None, add_to: Tensor | None = None) -> Tensor:
        y = self._rows.linear(_padded(x, self.padded), exact=self._exact).add_(self._bias)
        if gelu is not None:
            y = F.gelu(y, approximate=gelu)
        return y if add_to is None else add_to.add_(y)


def _product(module: nn.Linear | nn.Conv2d, *, exact: bool, quantize: bool) -> _Product:
    weight = module.weight.detach().flatten(1)
    bias = module.bias
    assert bias is not None
    form = native.form_for(FORMATS[weight.dtype], exact=exact)
    if not quantize and form is not Form.BF16:
        return _Product(weight, bias)
    product = _TiledProduct(weight, bias, exact=exact, quantize=quantize)
    if quantize or product.padded != product.inputs:  # a copy computes: let the original go
        module.weight = nn.Parameter(module.weight.detach().to("meta"), requires_grad=False)
    return product


def _padded(x: Tensor, inputs: int) -> Tensor:
    return F.pad(x, (0, inputs - x.shape[1])) if x.shape[1] != inputs else x.contiguous()
