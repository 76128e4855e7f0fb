"""The prefix cache: pages whose content some request already computed, found again by content.

A radix tree with one page of 64 tokens an edge. A node's key hashes all tokens from the root, and
the root's key hashes the model, the cache format and the request's salt, so that equal keys mean
equal latents and tenants with different salts never see each other's pages. Nodes hold no
references: a page nobody holds is idle in the allocator, and its node goes when it is taken again.

A page that is filled in part is a node too, a tail: a leaf, under the last full page before it. The
pages that follow a node, full ones and tails, stand in order of content, because then the page that
shares most first tokens with any text is a neighbour of that text's place. No tail is the beginning
of a page beside it: it would be of no use.
A picture's rows all have one token, so a page that holds some of them has the picture's digest and
place in its key. In the order of content a row is a number of its own, by picture and place in it.
Sources: arXiv 2312.07104 (RadixAttention), arXiv 2309.06180 (hashing by block).
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perilune.runner.pages import PAGE_SIZE

if TYPE_CHECKING:
    from perilune.engine.media import RequestMedia
    from perilune.engine.page_allocator import PageAllocator

KEY_BYTES = 16
TOKEN_BYTES = array("i").itemsize
MOST_PICTURES = 1 << 16  # whose numbers are remembered
LEAST_NUMBER = -(2**31)


@dataclass(eq=False, slots=True)
class PrefixNode:
    """A page of the tree, or a root (page -1). A tail has no key and nothing behind it."""

    key: bytes
    page: int
    parent: PrefixNode | None
    content: bytes = b""  # its tokens
    children: dict[bytes, PrefixNode] = field(default_factory=dict)  # the full pages behind
    following: list[PrefixNode] = field(default_factory=list)  # these and tails, by content

    @property
    def is_tail(self) -> bool:
        return not self.key

    @property
    def num_tokens(self) -> int:
        return len(self.content) // TOKEN_BYTES


class PrefixCache:
    """Names pages by content; `model` and `storage_format` are part of every name."""

    def __init__(self, pages: PageAllocator, *, model: str, storage_format: str) -> None:
        self._pages = pages
        self._identity = f"{model}\0{storage_format}\0{PAGE_SIZE}\0"
        self._numbers: OrderedDict[bytes, int] = OrderedDict()  # of the first row of each picture
        self._next_number = -1  # downwards; none is given twice
        self._generation = 0  # of numbers
        self._roots: dict[bytes, PrefixNode] = {}
        self._node_of_page: dict[int, PrefixNode] = {}
        pages.on_evict = self._forget

    def __len__(self) -> int:
        """Pages that have a name."""
        return len(self._node_of_page)

    def root_key(self, cache_salt: str) -> bytes:
        of = self._identity + cache_salt
        if self._generation:
            of = f"{self._generation}\0{of}"
        return hashlib.blake2b(of.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()

    def extend_keys(
        self, keys: list[bytes], tokens: Sequence[int], media: RequestMedia | None = None
    ) -> None:
        """Append the keys of the full pages of `tokens` that `keys` lacks (keys[0]: the root's)."""
        for start in range((len(keys) - 1) * PAGE_SIZE, len(tokens) - PAGE_SIZE + 1, PAGE_SIZE):
            content = _content(tokens[start : start + PAGE_SIZE]) + _shown(media, start)
            keys.append(hashlib.blake2b(keys[-1] + content, digest_size=KEY_BYTES).digest())

    def contents(self, tokens: list[int], media: RequestMedia | None) -> list[int]:
        """`tokens` with a number below 0 for each row of a picture: equal only to the same row.

        Such numbers are given by this cache and are used up after two thousand million rows; then
        `renew` is due. Without pictures the result is `tokens` itself.
        """
        if media is None:
            return tokens
        contents = list(tokens)
        for feature in media.features:
            first = self._numbers.pop(feature.key, None)
            if first is None:
                first = self._next_number
                self._next_number -= feature.length
                assert self._next_number >= LEAST_NUMBER, "the numbers are used up"
            # A picture that is forgotten here gets other numbers when it comes again. Its full
            # pages are still found, by their keys; those that are filled in part are not.
            self._numbers[feature.key] = first
            if len(self._numbers) > MOST_PICTURES:
                self._numbers.popitem(last=False)
            contents[feature.start : feature.end] = range(first, first - feature.length, -1)
        return contents

    def has_numbers(self, media: RequestMedia | None) -> bool:
        """Whether `contents` has numbers left for these pictures."""
        return media is None or self._next_number - media.tokens >= LEAST_NUMBER

    def renew(self) -> None:
        """Give numbers from the first one on again, under other roots; all names are forgotten."""
        self.clear()
        self._numbers.clear()
        self._next_number = -1
        self._generation += 1

    def match(self, keys: Sequence[bytes], max_pages: int) -> list[PrefixNode]:
        """The longest known chain of pages for `keys`, at most `max_pages`, first page first."""
        found: list[PrefixNode] = []
        node = self._roots.get(keys[0])
        for key in keys[1 : max_pages + 1]:
            node = node.children.get(key) if node is not None else None
            if node is None:
                break
            found.append(node)
        return found

    def match_part(
        self, keys: Sequence[bytes], found: Sequence[PrefixNode], tokens: Sequence[int]
    ) -> tuple[PrefixNode | None, int]:
        """The page behind the pages `found` that begins most like `tokens`; how many it shares."""
        parent = found[-1] if found else self._roots.get(keys[0])
        if parent is None or not tokens:
            return None, 0
        content = _content(tokens)
        place = _place(parent.following, content)
        neighbours = parent.following[max(place - 1, 0) : place + 1]
        best = max(neighbours, key=lambda node: _num_shared(node.content, content), default=None)
        return best, 0 if best is None else _num_shared(best.content, content)

    def insert(
        self, keys: Sequence[bytes], index: int, pages: list[int], tokens: Sequence[int]
    ) -> None:
        """Name page `index` of a sequence that holds `pages`; it is full of `tokens`.

        The pages before it must be named. Where another sequence computed the same content first,
        the tree's page takes the place of this one, in `pages` too. So whoever holds a page holds
        its whole chain.
        """
        page, key = pages[index], keys[index + 1]
        self._forget_tail(page)  # it has grown
        parent = self._parent(keys, index, pages)
        known = parent.children.get(key)
        if known is None:
            parent.children[key] = self._add(PrefixNode(key, page, parent, _content(tokens)))
        elif known.page != page:
            self._pages.share(known.page)
            self._pages.release(page)
            pages[index] = known.page

    def insert_tail(
        self, keys: Sequence[bytes], index: int, pages: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Name page `index` of a sequence that holds `pages`; it begins with `tokens`, under 64.

        The pages before it must be named. What it was named for before is forgotten. Where a page
        beside it has all of `tokens`, it gets no name.
        """
        page, content = pages[index], _content(tokens)
        known = self._node_of_page.get(page)
        if known is not None and known.content == content:
            return
        self._forget_tail(page)
        parent = self._parent(keys, index, pages)
        place = _place(parent.following, content)
        if not any(n.content.startswith(content) for n in parent.following[place : place + 1]):
            self._add(PrefixNode(b"", page, parent, content))

    def clear(self) -> None:
        """Forget every name. Pages that are held stay with their holders."""
        for page in list(self._node_of_page):
            self._pages.forget(page)
        self._node_of_page.clear()
        self._roots.clear()

    def _parent(self, keys: Sequence[bytes], index: int, pages: Sequence[int]) -> PrefixNode:
        if index:
            return self._node_of_page[pages[index - 1]]
        return self._roots.setdefault(keys[0], PrefixNode(keys[0], -1, None))

    def _add(self, node: PrefixNode) -> PrefixNode:
        """Put a node where it belongs; a tail that it begins with goes."""
        assert node.parent is not None
        following = node.parent.following
        place = _place(following, node.content)
        before = following[place - 1] if place else None
        following.insert(place, node)
        self._node_of_page[node.page] = node
        self._pages.name(node.page)
        if before is not None and node.content.startswith(before.content):
            self._forget_tail(before.page)
        return node

    def _forget_tail(self, page: int) -> None:
        """Where the page is a tail: it has no name any more."""
        node = self._node_of_page.get(page)
        if node is not None and node.is_tail:
            self._pages.forget(page)
            self._forget(page)

    def _forget(self, page: int) -> None:
        node = self._node_of_page.pop(page)
        assert not node.following, "the oldest idle page continues into a younger one"
        parent = node.parent
        assert parent is not None
        del parent.following[_place(parent.following, node.content)]
        if not node.is_tail:
            del parent.children[node.key]
        if parent.parent is None and not parent.following:
            self._roots.pop(parent.key, None)


def _shown(media: RequestMedia | None, start: int) -> bytes:
    """The pictures of the page that begins at `start`: the content and the place of each."""
    if media is None:
        return b""
    shown = []
    for feature in media.behind(start):
        if feature.start >= start + PAGE_SIZE:
            break
        shown.append(feature.key + (feature.start - start).to_bytes(8, "big", signed=True))
    return b"".join(shown)


def _content(tokens: Sequence[int]) -> bytes:
    return array("i", tokens).tobytes()


def _place(following: list[PrefixNode], content: bytes) -> int:
    """Where `content` stands, or would stand."""
    return bisect_left(following, content, key=lambda node: node.content)


def _num_shared(a: bytes, b: bytes) -> int:
    """Tokens that both begin with."""
    length = min(len(a), len(b))
    differing = int.from_bytes(a[:length], "big") ^ int.from_bytes(b[:length], "big")
    return (8 * length - differing.bit_length()) // (8 * TOKEN_BYTES)
