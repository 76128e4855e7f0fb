"""What differs between the ways of computing the tower, given to the one loop over its blocks.

As `model/context.py` for the text: the tower says what is computed in which order, these say how.
The tower's own modules compute here; `runner/vision` has the C kernels' way.

Shape suffixes: P patches of all items, D hidden, H heads, N width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.model.rotary import rotate

if TYPE_CHECKING:
    from perilune.model.vision.tower import VisionMLP

MLP_ROWS: Final = 4096
Gelu = Literal["tanh", "none"]  # the approximation by tanh, or exact


class VisionOperators:
    """The operations of the tower and the projector, by their own modules."""

    def linear(self, module: nn.Linear, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]."""
        y: Tensor = module(x)
        return y

    def gelu_linear(self, module: nn.Linear, x: Tensor, approximate: Gelu) -> Tensor:
        """GELU of `linear`."""
        return F.gelu(self.linear(module, x), approximate=approximate)

    def add_linear(self, module: nn.Linear, x: Tensor, residual: Tensor) -> Tensor:
        """residual + `linear`. May write into `residual`, and return it."""
        return residual + self.linear(module, x)

    def add_mlp(self, norm: nn.LayerNorm, mlp: VisionMLP, x: Tensor) -> Tensor:
        """x + fc1(gelu(fc0(norm(x)))), some patches at a time: the inner values are 4,304 each."""
        parts = []
        for rows in torch.split(x, MLP_ROWS):
            inner = self.gelu_linear(mlp.fc0, self.norm(norm, rows), "tanh")
            parts.append(self.add_linear(mlp.fc1, inner, rows))
        return torch.cat(parts)

    def norm(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        return y

    def embed(self, module: nn.Conv2d, patches: Tensor) -> Tensor:
        """Patches [P, 3*p*p] -> [P, D]: the convolution as one product, six times as fast."""
        return F.linear(patches.to(module.weight.dtype), module.weight.flatten(1), module.bias)

    def attend(
        self,
        qkv: Tensor,
        num_heads: int,
        rotation: tuple[Tensor, Tensor],
        counts: Sequence[int],
    ) -> Tensor:
        """Queries, keys and values [P, 3*D] -> [P, D]: each patch over all of its own item.

        `rotation`: cos and sin [P, N/2]. `counts`: patches of each item. Softmax in float32.
        """
        cos, sin = (each[:, None] for each in rotation)
        q_PHN, k_PHN, v_PHN = torch.unflatten(qkv, 1, (3, num_heads, -1)).unbind(1)
        q_PHN, k_PHN = rotate(q_PHN, cos, sin), rotate(k_PHN, cos, sin)
        items = []
        for q, k, v in zip(*(torch.split(each, list(counts)) for each in (q_PHN, k_PHN, v_PHN)),
                           strict=True):  # fmt: skip
            q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
            out_HPN = F.scaled_dot_product_attention(q, k, v)[0]
            items.append(out_HPN.transpose(0, 1).flatten(1))
        return torch.cat(items)


PLAIN: Final = VisionOperators()
