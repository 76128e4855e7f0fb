"""The paged latent cache: what attention remembers of each token, in pages of 64 tokens.

K2 caches one latent per token and layer (the normed 512 values of `kv_a` and the 64 rotated values
of the shared key: 576), never keys and values per head. This is the only memory of the engine that
grows with tokens. Which page belongs to which sequence is the engine's business
(`perilune.engine.page_allocator`). Source: arXiv 2405.04434 (multi-head latent attention).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from perilune.errors import EngineError
from perilune.runner.pages import PAGE_SIZE as PAGE_SIZE
from perilune.runner.pages import pages_for as pages_for

if TYPE_CHECKING:
    from perilune.config import ModelConfig


def page_bytes(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of one page over all layers."""
    return config.num_hidden_layers * PAGE_SIZE * config.latent_dim * dtype.itemsize


class PagedLatentCache:
    """Storage [layers, pages, 64, latent_dim] in one dtype on one device.

    The memory is reserved, not touched: the system hands it out as pages are first written.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        latent_dim: int,
        num_pages: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_pages < 1:
            raise EngineError(
                f"the latent cache cannot have {num_pages} pages", remedy="Give at least one"
            )
        self.storage: Tensor = torch.empty(
            (num_layers, num_pages, PAGE_SIZE, latent_dim), dtype=dtype, device=device
        )

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        num_pages: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> PagedLatentCache:
        return cls(
            num_layers=config.num_hidden_layers,
            latent_dim=config.latent_dim,
            num_pages=num_pages,
            dtype=dtype,
            device=device,
        )

    @property
    def num_pages(self) -> int:
        return self.storage.shape[1]

    @property
    def bytes_per_token(self) -> int:
        layers, _, _, latent_dim = self.storage.shape
        return layers * latent_dim * self.storage.element_size()

    def copy_pages(self, copies: Iterable[tuple[int, int]]) -> None:
        """Copy whole pages (source, target) in all layers, in order.

        On a CPU by one thread: pages are small, and on a busy machine torch waits milliseconds for
        its other threads.
        """
        storage: Any = self.storage
        if self.storage.device.type == "cpu":
            storage = self.storage.view(torch.uint8).numpy()
        for source, target in copies:
            storage[:, target] = storage[:, source]
