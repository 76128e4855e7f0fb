"""Modules that hold weights as they are stored, in any format, and compute with them.

`apply_format` puts them into a model in place of its plain modules; the network itself knows
nothing of formats. What they compute here is the reference: one matrix or one expert at a time is
dequantised to the dtype of its input. `kernels/` has the fast ways. What a format is, and how a
matrix of it becomes numbers, `perilune.formats` says; `stored_matrix` and `stored_experts` tell
the format and the tensors of any module, a plain one too.

Shape suffixes: N rows, E experts, D hidden, F expert hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.config import CheckpointConfig
from perilune.errors import ConfigError
from perilune.formats import Part, Role, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.model.attention import LatentAttention
from perilune.model.experts import Experts, RoutedExperts
from perilune.model.layer import DecoderLayer
from perilune.model.model import KimiK2Model
from perilune.model.moe import MixtureOfExperts
from perilune.weights.reader import TORCH_DTYPES

PROJECTIONS: Final = ("gate_proj", "up_proj", "down_proj")


class StoredDtypes(nn.Module):
    """A module whose tensors move with the model but keep the dtype in which they are stored."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep(tensor: Tensor) -> Tensor:
            probe = fn(tensor.new_empty(0))
            return fn(tensor) if probe.dtype == tensor.dtype else tensor.to(probe.device)

        return super()._apply(keep, recurse)  # type: ignore[no-untyped-call, no-any-return]


class StoredLinear(StoredDtypes):
    """y = x W^T. Each tensor of W is a buffer of its own name (`weight`, `weight_scale`, ...)."""

    def __init__(
        self,
        storage: StorageFormat,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.storage, self.in_features, self.out_features = storage, in_features, out_features
        for name, tensor in _empty(storage, out_features, in_features, device).items():
            self.register_buffer(name, tensor)

    def tensors(self) -> dict[str, Tensor]:
        """Suffix -> tensor."""
        return {suffix: getattr(self, suffix) for suffix in self.storage.roles}

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [out, in]."""
        return self.storage.dequantize(self.tensors(), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype."""
        return F.linear(x, self.dequantize(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.storage!r}"


class StoredExperts(StoredDtypes, RoutedExperts):
    """The experts of a layer, each tensor stacked: `gate_proj_packed` [E, F, D/8], and so on.

    A stacked tensor is named by the projection and what stands behind `weight` in its suffix.
    """

    def __init__(
        self,
        storage: StorageFormat,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(num_experts, hidden_size, intermediate_size)
        self.storage = storage
        for name in PROJECTIONS:
            sizes = (intermediate_size, hidden_size)
            rows, columns = sizes[::-1] if name == "down_proj" else sizes
            for suffix, one in _empty(storage, rows, columns, device).items():
                stacked = one.expand(num_experts, *one.shape).contiguous()
                self.register_buffer(_attribute(name, suffix), stacked)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Suffix -> stacked tensor of a projection."""
        return {suffix: getattr(self, _attribute(name, suffix)) for suffix in self.storage.roles}

    def dequantize(self, name: str, e: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Projection `name` of expert `e` as a matrix [out, in]."""
        one = {suffix: stacked[e] for suffix, stacked in self.tensors(name).items()}
        return self.storage.dequantize(one, dtype)

    def expert(self, e: int, x_ND: Tensor) -> Tensor:
        dtype = x_ND.dtype
        gate_NF = F.linear(x_ND, self.dequantize("gate_proj", e, dtype))
        up_NF = F.linear(x_ND, self.dequantize("up_proj", e, dtype))
        return F.linear(F.silu(gate_NF) * up_NF, self.dequantize("down_proj", e, dtype))

    def expert_slots(self) -> Iterator[tuple[str, Tensor]]:
        for e in range(self.num_experts):
            for name in PROJECTIONS:
                for suffix, stacked in self.tensors(name).items():
                    yield f"{e}.{name}.{suffix}", stacked[e]


class StoredLatentAttention(LatentAttention):
    """The absorbed form multiplies with parts of `kv_b_proj` itself, so it needs it as numbers."""

    def up_projections(self) -> tuple[Tensor, Tensor]:
        kv_b_proj = self.kv_b_proj
        assert isinstance(kv_b_proj, StoredLinear)
        up_UL = kv_b_proj.dequantize(self.kv_a_layernorm.weight.dtype)
        up_HUL = up_UL.view(self.num_heads, -1, self.rank)
        return up_HUL[:, : self.nope_dim], up_HUL[:, self.nope_dim :]


def stored_matrix(module: nn.Module) -> tuple[StorageFormat, Mapping[str, Tensor]]:
    """The format of a linear module, and its tensors by suffix."""
    if isinstance(module, StoredLinear):
        return module.storage, module.tensors()
    weight = module.weight
    assert isinstance(weight, Tensor)
    return BF16, {"weight": weight.detach()}


def stored_experts(
    module: RoutedExperts, projection: str
) -> tuple[StorageFormat, Mapping[str, Tensor]] | None:
    """The format of a layer's experts, and the stacked tensors of a projection by suffix.

    None for experts of a kind that holds no tensors of its own.
    """
    if isinstance(module, StoredExperts):
        return module.storage, module.tensors(projection)
    if isinstance(module, Experts):
        return BF16, {"weight": getattr(module, projection).detach()}
    return None


def stored_formats(module: nn.Module) -> Iterator[tuple[str, StorageFormat]]:
    """(name, format) of every module below that holds a weight in a format of its own."""
    for name, part in module.named_modules():
        if isinstance(part, StoredLinear | StoredExperts):
            yield name, part.storage


def apply_format(model: KimiK2Model, config: CheckpointConfig) -> None:
    """Replace the modules of `model` whose weights the checkpoint stores quantised, in place.

    The new modules are empty and on the device of those that they replace (meta, as a rule).
    """
    storage = config.storage
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        _replace_linears(layer.self_attn, storage, Part.ATTENTION)
        if isinstance(layer.self_attn.kv_b_proj, StoredLinear):
            layer.self_attn.__class__ = StoredLatentAttention  # the same with one method more
        if isinstance(layer.mlp, MixtureOfExperts):
            _replace_linears(layer.mlp.shared_experts, storage, Part.SHARED_EXPERTS)
            if all(storage.covers(name, Part.ROUTED_EXPERTS) for name in PROJECTIONS):
                layer.mlp.experts = _experts(layer.mlp.experts, storage)
        else:
            _replace_linears(layer.mlp, storage, Part.DENSE_MLP)
    if not model.config.tie_word_embeddings and storage.covers("lm_head", Part.LM_HEAD):
        model.add_module("lm_head", _linear(model.lm_head, storage))


def _replace_linears(parent: nn.Module, storage: StorageFormat, part: Part) -> None:
    for name, module in list(parent.named_children()):
        if isinstance(module, nn.Linear) and storage.covers(name, part):
            setattr(parent, name, _linear(module, storage))


def _linear(plain: nn.Linear, storage: StorageFormat) -> StoredLinear:
    device = plain.weight.device
    return StoredLinear(storage, plain.in_features, plain.out_features, device=device)


def _experts(plain: RoutedExperts, storage: StorageFormat) -> StoredExperts:
    device = next((p.device for p in plain.parameters(recurse=False)), None)
    sizes = plain.num_experts, plain.hidden_size, plain.intermediate_size
    return StoredExperts(storage, *sizes, device=device)


def _attribute(projection: str, suffix: str) -> str:
    return projection + suffix.removeprefix("weight")


def _empty(
    storage: StorageFormat, rows: int, columns: int, device: torch.device | str | None
) -> dict[str, Tensor]:
    """The tensors of a matrix of zeros; scales are one, a shape is what it is.

    Raises ConfigError for sizes that do not fit the format.
    """
    try:
        layout = storage.matrix_tensors(rows, columns)
    except ValueError as error:
        raise ConfigError(f"a weight cannot be stored as {storage}: {error}") from None
    tensors = {}
    for each in layout:
        dtype = TORCH_DTYPES[each.dtype]
        if each.role is Role.SHAPE:
            tensors[each.suffix] = torch.tensor([rows, columns], dtype=dtype, device=device)
        elif each.role is Role.SCALE:
            tensors[each.suffix] = torch.ones(each.shape, dtype=dtype, device=device)
        else:
            tensors[each.suffix] = torch.zeros(each.shape, dtype=dtype, device=device)
    return tensors
