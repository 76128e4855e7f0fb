"""The table of parameters: each by name with its optimiser and the matrices inside it.

Labels come from the types of the modules, never from a pattern over names. A parameter that no
module claims is an error, so a new module cannot be trained by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor, nn

from perilune.errors import UsageError
from perilune.model.attention import LatentAttention
from perilune.model.experts import Experts
from perilune.model.mlp import MLP
from perilune.model.model import Decoder, KimiK2Model
from perilune.model.norm import RMSNorm
from perilune.model.router import Router


class Label(StrEnum):
    """What a parameter is for, which decides how it is trained."""

    EMBEDDING = "embedding"
    HEAD = "head"
    NORM = "norm"
    ATTENTION = "attention"
    MLP = "mlp"  # dense layers and shared experts
    EXPERTS = "experts"
    ROUTER = "router"

    @property
    def muon(self) -> bool:
        """Trained by Muon; the others by AdamW."""
        return self not in (Label.EMBEDDING, Label.HEAD, Label.NORM)


@dataclass(slots=True)
class Parameter:
    """A trained tensor. `value` is what the network computes with, `master` what is stepped.

    The two are one tensor unless something (INT4 training) keeps a rounded copy for the network.
    `blocks` counts the matrices that Muon takes apart: heads of an up-projection, experts.
    """

    name: str
    value: Tensor
    label: Label
    blocks: int = 1
    master: Tensor = field(init=False)
    rounding: Callable[[Tensor], Tensor] | None = None
    """What makes `value` from `master` where they differ."""

    def __post_init__(self) -> None:
        self.master = self.value.detach()

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of one matrix of a Muon parameter."""
        columns = self.value.shape[-1]
        return self.value.numel() // (self.blocks * columns), columns

    def as_blocks(self, tensor: Tensor) -> Tensor:
        """A tensor of this parameter's shape as [blocks, rows, columns], a view."""
        return tensor.view(self.blocks, *self.block_shape)


def parameter_table(model: KimiK2Model) -> list[Parameter]:
    """Every trained parameter of a model, in the order of the network.

    Raises UsageError for a parameter that no known module owns.
    """
    table = list(_claimed(model))
    claimed = {id(p.value) for p in table}
    for name, value in model.named_parameters():
        if value.requires_grad and id(value) not in claimed:
            raise UsageError(f"nothing says how to train the parameter {name}")
    return table


def _claimed(model: KimiK2Model) -> Iterator[Parameter]:
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, KimiK2Model):
            if model.lm_head.weight is not model.model.embed_tokens.weight:
                yield Parameter("lm_head.weight", model.lm_head.weight, Label.HEAD)
        elif isinstance(module, Decoder):
            name = f"{prefix}embed_tokens.weight"
            yield Parameter(name, module.embed_tokens.weight, Label.EMBEDDING)
        elif isinstance(module, RMSNorm):
            yield Parameter(f"{prefix}weight", module.weight, Label.NORM)
        elif isinstance(module, Router):
            yield Parameter(f"{prefix}weight", module.weight, Label.ROUTER)
        elif isinstance(module, Experts):
            for name, value in module.named_parameters():
                yield Parameter(f"{prefix}{name}", value, Label.EXPERTS, module.num_experts)
        elif isinstance(module, MLP):
            for name, value in module.named_parameters():
                yield Parameter(f"{prefix}{name}", value, Label.MLP)
        elif isinstance(module, LatentAttention):
            # A whole matrix would be orthogonalised across heads, which starves the heads whose
            # gradients are small: each head's part of an up-projection is a matrix of its own.
            for name, part in module.named_children():
                if isinstance(part, nn.Linear):
                    split = name in ("q_proj", "q_b_proj", "kv_b_proj")
                    blocks = module.num_heads if split else 1
                    yield Parameter(f"{prefix}{name}.weight", part.weight, Label.ATTENTION, blocks)
