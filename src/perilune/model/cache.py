"""The latent cache of the reference: what attention keeps of the tokens it has seen.

A token costs `latent_dim` values per layer (576 at full size): the normed latent and the rotated
key that all heads share. Contiguous and of a fixed length; the engine has a paged one.

Shape suffixes: B batch, T new tokens, S tokens so far, C latent_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perilune.config import ModelConfig
from perilune.errors import UsageError


class LatentCache:
    """`storage` is [layers, B, max_tokens, C]; `length` tokens of it are filled."""

    def __init__(
        self,
        config: ModelConfig,
        max_tokens: int,
        *,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.storage = torch.zeros(
            config.num_hidden_layers, batch, max_tokens, config.latent_dim,
            dtype=dtype, device=device,
        )  # fmt: skip
        self.length = 0

    @property
    def max_tokens(self) -> int:
        return self.storage.shape[2]

    def extend(self, layer: int, latent_BTC: Tensor) -> Tensor:
        """Write the new tokens of one layer; return all of its tokens so far [B, S, C]."""
        end = self.length + latent_BTC.shape[1]
        if end > self.max_tokens:
            raise UsageError(
                f"the latent cache holds {self.max_tokens} tokens, {end} are needed",
                remedy="Make it larger, or shorten the prompt",
            )
        self.storage[layer, :, self.length : end] = latent_BTC
        return self.storage[layer, :, :end]

    def advance(self, tokens: int) -> None:
        """Count the tokens of a forward pass as seen, once every layer has written them."""
        self.length += tokens
