"""Pages and prefixes: a random walk against a plain model, and the rules one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perilune.engine.page_allocator import PageAllocator
from perilune.engine.prefix_cache import PrefixCache, PrefixNode
from perilune.errors import EngineError
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache, pages_for

from .fakes import check_tree


@dataclass(eq=False)
class Text:
    """A sequence of the machine: all its tokens are computed."""

    salt: str
    tokens: list[int]
    keys: list[bytes]
    pages: list[int]


# A letter is a run of this many tokens, so that texts part at the edges of pages and within.
RUNS = {"a": 64, "b": 64, "c": 1, "d": 5, "e": 30, "f": 63}


class CacheMachine(RuleBasedStateMachine):
    """Sequences come, share what is known, compute, name, grow, fork and go, with few pages.

    `slots` is the model: after which tokens of which salt each slot of a page was last written. A
    page found by name must have the tokens that were asked for in its slots; with that the prefix
    cache can never give a wrong one.
    """

    @initialize(pages=st.integers(1, 8))
    def start(self, pages: int) -> None:
        self.pages = PageAllocator(pages)
        self.cache = PrefixCache(self.pages, model="m", storage_format="f")
        self.slots: dict[int, list[object]] = {page: [None] * PAGE_SIZE for page in range(pages)}
        self.sequences: list[Text] = []

    @rule(letters=st.text("abcdef", min_size=1, max_size=5), salt=st.sampled_from(["", "s"]))
    def compute(self, letters: str, salt: str) -> None:
        text = Text(salt, self._tokens(letters), [self.cache.root_key(salt)], [])
        self.cache.extend_keys(text.keys, text.tokens)
        found = self.cache.match(text.keys, len(text.tokens) // PAGE_SIZE)
        for node in found:
            self.pages.share(node.page)
            text.pages.append(node.page)
        start = len(found) * PAGE_SIZE
        rest = text.tokens[start : start + PAGE_SIZE]
        part, shared = self.cache.match_part(text.keys, found, rest)
        beside = found[-1].following if found else self._roots().get(text.keys[0]) or []
        assert shared == max((_num_alike(node.content, rest) for node in beside), default=0)
        if part is not None and not self.pages.holders(part.page) and shared == part.num_tokens:
            self.pages.share(part.page)
            text.pages.append(part.page)
        elif part is not None and shared and self.pages.num_available > 1:
            self.pages.share(part.page)
            text.pages.append(self.pages.allocate())
            self.slots[text.pages[-1]] = list(self.slots[part.page])
            self.pages.release(part.page)
        else:
            shared = 0
        for at in range(start + shared):
            slot = self.slots[text.pages[at // PAGE_SIZE]][at % PAGE_SIZE]
            assert slot == (salt, text.tokens[: at + 1])
        self._write(text, start + shared)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), letters=st.text("abcdef", min_size=1, max_size=2))
    def grow(self, data: st.DataObject, letters: str) -> None:
        text = data.draw(st.sampled_from(self.sequences))
        start = len(text.tokens)
        last = text.pages[-1]
        if start % PAGE_SIZE and self.pages.holders(last) > 1:
            return  # the scheduler would copy it
        self.sequences.remove(text)
        text.tokens += self._tokens(letters)
        self._write(text, start)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(self.sequences))
        for page in text.pages:
            self.pages.share(page)
        self.sequences.append(Text(text.salt, list(text.tokens), list(text.keys), list(text.pages)))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.sequences) - 1))
        self.pages.release_sequence(self.sequences.pop(index).pages)

    @precondition(lambda self: not self.sequences)
    @rule()
    def clear(self) -> None:
        self.cache.clear()
        assert self.pages.num_free == self.pages.num_pages and not len(self.cache)

    @invariant()
    def all_pages_are_accounted_for(self) -> None:
        held = [page for text in self.sequences for page in text.pages]
        assert self.pages.num_held == len(set(held))
        assert all(self.pages.holders(page) == held.count(page) for page in held)

    @invariant()
    def the_tree_is_in_order(self) -> None:
        check_tree(self.cache)

    def _tokens(self, letters: str) -> list[int]:
        return [ord(letter) for letter in letters for _ in range(RUNS[letter])]

    def _roots(self) -> dict[bytes, list[PrefixNode]]:
        return {key: root.following for key, root in self.cache._roots.items()}

    def _write(self, text: Text, start: int) -> None:
        """Compute the tokens from `start`, name what they fill; without pages, go."""
        for at in range(start, len(text.tokens)):
            if at == len(text.pages) * PAGE_SIZE:
                if not self.pages.num_available:
                    self.pages.release_sequence(text.pages)
                    return
                text.pages.append(self.pages.allocate())
            place = self.slots[text.pages[at // PAGE_SIZE]]
            place[at % PAGE_SIZE] = (text.salt, text.tokens[: at + 1])
            if at % PAGE_SIZE == PAGE_SIZE - 1:
                self.cache.extend_keys(text.keys, text.tokens)
                index = at // PAGE_SIZE
                self.cache.insert(
                    text.keys, index, text.pages, text.tokens[index * PAGE_SIZE : at + 1]
                )
        full, part = divmod(len(text.tokens), PAGE_SIZE)
        if part:
            self.cache.insert_tail(text.keys, full, text.pages, text.tokens[full * PAGE_SIZE :])
        self.sequences.append(text)


def _num_alike(content: bytes, tokens: list[int]) -> int:
    known = memoryview(content).cast("i").tolist()
    return next(
        n
        for n in range(PAGE_SIZE + 1)
        if known[: n + 1] != tokens[: n + 1] or n == min(len(known), len(tokens))
    )


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_oldest_leaf_is_evicted_first() -> None:
    pages = PageAllocator(4)
    cache = PrefixCache(pages, model="m", storage_format="f")

    def compute(letters: str) -> None:
        keys = [cache.root_key("")]
        cache.extend_keys(keys, [ord(c) for c in letters for _ in range(PAGE_SIZE)])
        held = [node.page for node in cache.match(keys, len(letters))]
        for page in held:
            pages.share(page)
        for index in range(len(held), len(letters)):
            held.append(pages.allocate())
            cache.insert(keys, index, held, [ord(letters[index])] * PAGE_SIZE)
        pages.release_sequence(held)

    def known(letters: str) -> int:
        keys = [cache.root_key("")]
        cache.extend_keys(keys, [ord(c) for c in letters for _ in range(PAGE_SIZE)])
        return len(cache.match(keys, len(letters)))

    compute("ab")
    compute("ac")  # shares a
    assert pages.num_free == 1
    compute("ab")  # used again: c is the oldest leaf now
    compute("xy")
    assert (known("ab"), known("ac"), known("xy")) == (2, 1, 2)
    compute("z")
    assert (known("ab"), known("xy"), known("z")) == (1, 2, 1)


def test_a_tail_is_found_by_its_first_tokens() -> None:
    pages = PageAllocator(4)
    cache = PrefixCache(pages, model="m", storage_format="f")
    keys = [cache.root_key("")]

    def tail(*tokens: int) -> int:
        page = pages.allocate()
        cache.insert_tail(keys, 0, [page], tokens)
        pages.release(page)
        return page

    def found(*tokens: int) -> tuple[int | None, int]:
        node, count = cache.match_part(keys, [], tokens)
        return None if node is None else node.page, count

    assert found(1, 2) == (None, 0)
    long, other = tail(1, 2, 3, 4), tail(1, 2, 9)
    assert found(1, 2, 3, 7) == (long, 3) and found(1, 2, 9, 9) == (other, 3)
    assert found(1, 2, 3, 4, 5) == (long, 4)
    assert found(8)[1] == 0 and found() == (None, 0)
    # The beginning of a known page gets no name, and loses the one that it has.
    assert tail(1, 2, 3) != long and pages.num_idle == 2
    longer = tail(1, 2, 9, 9)
    assert found(1, 2, 9) == (longer, 3) and pages.num_idle == 2
    assert cache.match_part([cache.root_key("other")], [], [1, 2]) == (None, 0)


def test_a_tail_becomes_a_full_page() -> None:
    pages = PageAllocator(2)
    cache = PrefixCache(pages, model="m", storage_format="f")
    keys = [cache.root_key("")]
    tokens = list(range(PAGE_SIZE))
    cache.extend_keys(keys, tokens)
    first, second = [pages.allocate()], [pages.allocate()]
    for held in (first, second):
        cache.insert_tail(keys, 0, held, tokens[:9] if held is first else tokens[:12])
    for held in (first, second):
        cache.insert(keys, 0, held, tokens)
    assert first == second and len(cache) == 1 and pages.num_free == 1
    assert [node.page for node in cache.match(keys, 1)] == first
    pages.release_sequence(first)
    pages.release_sequence(second)
    assert (pages.num_idle, pages.num_free) == (1, 1)


def test_names_hold_model_format_and_salt() -> None:
    pages = PageAllocator(4)
    roots = {
        PrefixCache(pages, model=model, storage_format=kind).root_key(salt)
        for model in ("a", "b") for kind in ("bf16", "fp8") for salt in ("", "x")
    }  # fmt: skip
    assert len(roots) == 8


def test_misuse_is_refused() -> None:
    pages = PageAllocator(1)
    page = pages.allocate()
    with pytest.raises(EngineError, match="no page"):
        pages.allocate()
    pages.release(page)
    for misuse in (pages.release, pages.share, pages.name):
        with pytest.raises(EngineError):
            misuse(page)
    with pytest.raises(EngineError):
        PageAllocator(0)


def test_copying_pages_copies_all_layers_in_order() -> None:
    cache = PagedLatentCache(num_layers=3, latent_dim=5, num_pages=4, dtype=torch.float32)
    cache.storage.copy_(torch.rand(cache.storage.shape))
    before = cache.storage.clone()
    cache.copy_pages([(0, 1), (1, 2)])
    assert torch.equal(cache.storage[:, 2], before[:, 0])
    assert torch.equal(cache.storage[:, 3], before[:, 3])


def test_pages_for() -> None:
    rng = random.Random(1)
    assert [pages_for(n) for n in (0, 1, 64, 65)] == [0, 1, 1, 2]
    assert all(
        (pages_for(n) - 1) * 64 < n <= pages_for(n) * 64 for n in rng.sample(range(9999), 50) if n
    )
