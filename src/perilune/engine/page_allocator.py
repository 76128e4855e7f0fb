"""Which page of the latent cache belongs to whom: bookkeeping alone, no memory.

Source: arXiv 2309.06180 (pages); the storage itself is `perilune.runner.cache`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from perilune.errors import EngineError


class PageAllocator:
    """Counts who holds each page.

    A page is free, held (by one or more sequences), or idle: held by nobody, but its content is
    still named in the prefix cache. Idle pages are taken again, oldest first, when the free ones
    run out; `on_evict(page)` then tells the prefix cache to forget the name.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise EngineError(
                f"the latent cache cannot have {num_pages} pages", remedy="Give at least one"
            )
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
