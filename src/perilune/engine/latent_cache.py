"""The latent cache: what attention remembers of each token, in pages of 64 tokens.

K2 caches one latent a token and layer (the normed 512 values of `kv_a` and the 64 rotated values
of the shared key: 576), never keys and values a head. This is the only memory of the engine that
grows with tokens. Source: arXiv 2405.04434 (multi-head latent attention); arXiv 2309.06180 (pages).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from perilune.config import ModelConfig
from perilune.errors import EngineError

PAGE_SIZE = 64  # tokens


def pages_for(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_SIZE)


def page_bytes(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of one page over all layers."""
    return config.num_hidden_layers * PAGE_SIZE * config.latent_dim * dtype.itemsize


class LatentCache:
    """Storage [layers, pages, 64, latent_dim] and the allocator of its pages.

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
        self.storage: Tensor = torch.empty(
            (num_layers, num_pages, PAGE_SIZE, latent_dim), dtype=dtype, device=device
        )
        self.pages = PageAllocator(num_pages)

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        num_pages: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> LatentCache:
        return cls(
            num_layers=config.num_hidden_layers,
            latent_dim=config.latent_dim,
            num_pages=num_pages,
            dtype=dtype,
            device=device,
        )

    @property
    def bytes_per_token(self) -> int:
        layers, _, _, latent_dim = self.storage.shape
        return layers * latent_dim * self.storage.element_size()

    def emptied(self) -> LatentCache:
        """A cache in the same memory with every page free; this one must not be used again."""
        empty = LatentCache.__new__(LatentCache)
        empty.storage = self.storage
        empty.pages = PageAllocator(self.pages.num_pages)
        return empty

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


class PageAllocator:
    """Counts who holds each page.

    A page is free, held (by one or more sequences), or idle: held by nobody, but its content is
    still named in the prefix cache. Idle pages are taken again, oldest first, when the free ones
    run out; `on_evict(page)` then tells the prefix cache to forget the name.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise EngineError(f"a latent cache of {num_pages} pages", remedy="Give at least one")
        self.num_pages = num_pages
        self.on_evict: Callable[[int], None] = lambda page: None
        self._free = deque(range(num_pages))
        self._holders = [0] * num_pages
        self._named = [False] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_held(self) -> int:
        return self.num_pages - self.num_free - self.num_idle

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can hand out now."""
        return self.num_free + self.num_idle

    def holders(self, page: int) -> int:
        return self._holders[page]

    def allocate(self) -> int:
        """A page for one holder. Raises EngineError when none is available: ask first."""
        if self._free:
            page = self._free.popleft()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            self._named[page] = False
            self.on_evict(page)
        else:
            raise EngineError("no page of the latent cache is available")
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holder of a held or idle page."""
        if not self._holders[page]:
            if page not in self._idle:
                raise EngineError(f"page {page} is free and cannot be shared")
            del self._idle[page]
        self._holders[page] += 1

    def touch(self, page: int) -> None:
        """A held or idle page was of use: idle, it is now the youngest."""
        self.share(page)
        self.release(page)

    def release(self, page: int) -> None:
        """One holder less; without holders the page becomes idle when it is named, else free."""
        if not self._holders[page]:
            raise EngineError(f"page {page} is released but nobody holds it")
        self._holders[page] -= 1
        if not self._holders[page]:
            if self._named[page]:
                self._idle[page] = None
            else:
                self._free.append(page)

    def release_sequence(self, pages: list[int]) -> None:
        """Release a sequence's pages, last first, and empty the list.

        The order matters: it keeps every idle page behind the pages that continue it, so that
        the oldest idle page is always a leaf of the prefix tree.
        """
        while pages:
            self.release(pages.pop())

    def name(self, page: int) -> None:
        """The prefix cache names this held page: without holders it will be idle, not free."""
        if not self._holders[page]:
            raise EngineError(f"page {page} is named but nobody holds it")
        self._named[page] = True

    def forget(self, page: int) -> None:
        """The prefix cache forgets this page: idle it becomes free, held it stays held."""
        self._named[page] = False
        if page in self._idle:
            del self._idle[page]
            self._free.append(page)
