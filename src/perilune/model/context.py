"""What differs between the ways of computing the network, given to the one loop over its layers.

The layers (`model.py`, `layer.py`, `attention.py`, `moe.py`) say what is computed in which order. A
context says how: where the latents of earlier tokens lie, which attention and expert product run,
what is recorded. The reference has a contiguous cache (`ContiguousContext`), the engine pages
(`perilune.runner`), training ragged batches with hand-written backward passes (`perilune.train`).

Shape suffixes: B batch, T new tokens, S tokens attended to, D hidden, H heads, N width of a head's
position-free part, R of its rotary part, V of its value, C cached values per token, E experts, K
chosen experts. Leading dimensions are the context's own: [B, T] here, [T] in the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perilune.model.cache import LatentCache
from perilune.model.vision.placing import placed

if TYPE_CHECKING:
    from perilune.model.attention import LatentAttention
    from perilune.model.experts import RoutedExperts
    from perilune.model.model import Decoder
    from perilune.model.norm import RMSNorm
    from perilune.model.router import Router

Rotation = tuple[Tensor, Tensor]  # cos and sin of the new tokens, float32 [..., T, R/2]


class Operators:
    """The operations of the network, by its own modules. A context replaces those it has better."""

    def embed(self, table: nn.Embedding, input_ids: Tensor) -> Tensor:
        """Token ids [...] -> [..., D]."""
        x: Tensor = table(input_ids)
        return x

    def norm(self, module: RMSNorm, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        return y

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]; `module` is a linear one of any storage format."""
        y: Tensor = module(x)
        return y

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up (SwiGLU)."""
        return F.silu(gate) * up

    def experts(
        self, module: RoutedExperts, x_TD: Tensor, weights_TK: Tensor, indices_TK: Tensor
    ) -> Tensor:
        """Weighted sum of the chosen experts' answers, [T, D].

        Where weights must be brought into memory first, a context waits for them here.
        """
        y_TD: Tensor = module(x_TD, weights_TK, indices_TK)
        return y_TD

    def routed(self, router: Router, scores_TE: Tensor, indices_TK: Tensor) -> None:
        """Told what a router found, for contexts that record it."""

    def wanted(self, x: Tensor) -> Tensor:
        """The rows whose hidden states are wanted after the last layer: all of them."""
        return x

    def output(self, head: nn.Module, hidden: Tensor) -> Any:
        """What the network gives: logits [..., vocabulary]."""
        return self.linear(head, hidden)


PLAIN: Final = Operators()


class ForwardContext(Operators, ABC):
    """`rotation` belongs to the positions of the new tokens."""

    rotation: Rotation

    @abstractmethod
    def attend(
        self, attention: LatentAttention, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor
    ) -> Tensor:
        """Queries and latents of the new tokens -> what their heads give, [..., T, H, V].

        The new tokens see the earlier ones and each other, causally.
        """


class ContiguousContext(ForwardContext):
    """[B, T] tokens behind those of a contiguous cache, which takes them up."""

    def __init__(
        self,
        decoder: Decoder,
        input_ids: Tensor,
        *,
        cache: LatentCache | None = None,
        positions: Tensor | None = None,
        absorbed: bool | None = None,
        pictures: Tensor | None = None,
        media_token_id: int | None = None,
    ) -> None:
        seen, new = (0 if cache is None else cache.length), input_ids.shape[1]
        order_S = torch.arange(seen + new, device=input_ids.device)
        self.rotation = decoder.rotary(order_S[seen:] if positions is None else positions)
        self._mask_TS = order_S <= order_S[seen:, None]
        self._absorbed = new == 1 if absorbed is None else absorbed
        self._cache = cache
        self._pictures, self._media_token_id = pictures, media_token_id

    def embed(self, table: nn.Embedding, input_ids: Tensor) -> Tensor:
        x = super().embed(table, input_ids)
        if self._pictures is None:
            return x
        return placed(x, input_ids, self._media_token_id, self._pictures)

    def attend(
        self, attention: LatentAttention, q_THN: Tensor, q_THR: Tensor, latent_TC: Tensor
    ) -> Tensor:
        if self._cache is not None:
            latent_TC = self._cache.extend(attention.layer, latent_TC)
        form = attention.absorbed if self._absorbed else attention.expanded
        return form(q_THN, q_THR, latent_TC, self._mask_TS)
