"""A network without weights whose next token depends on every token of its context.

It writes (token, position) into the latents and reads them back through the page table, so that a
stale page, a wrong page, a missed copy or a row of another request changes what it says. Its
reference computes the same from the plain list of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from perilune.engine.engine import Engine
from perilune.engine.input_processor import EngineConfig
from perilune.engine.outputs import SequenceOutput
from perilune.engine.prefix_cache import PrefixCache, PrefixNode
from perilune.engine.sampler import Sampled, SampleRow, derive_seed, sample
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.scheduler import SchedulerConfig
from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache

VOCAB = 24
END = 23

_WEIGHTS = np.random.default_rng(5).integers(1, 2**62, size=4096, dtype=np.int64)
_TABLE = np.random.default_rng(6).integers(1, 2**62, size=VOCAB, dtype=np.int64)


def fake_logits(context: np.ndarray) -> np.ndarray:
    """float32 [V] from token ids [S]; every token and its place matter."""
    with np.errstate(over="ignore"):
        state = np.int64((context.astype(np.int64) + 1) @ _WEIGHTS[: len(context)])
        mixed = (state ^ _TABLE) * np.int64(0x2545F4914F6CDD1D)
    logits = ((mixed >> 40) & 0xFFFF).astype(np.float32) / 8192
    # A tendency to repeat what stands three tokens back, so that speculation has something to win.
    if len(context) >= 3:
        logits[context[-3]] += 6 if state & 3 else 0
    return logits


class FakeForward:
    """`ModelRunner` that checks the step's contract on the way."""

    def __init__(self) -> None:
        self.rows = 0

    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        storage = cache.storage[0].numpy()
        starts = batch.query_starts.tolist()
        wanted = set(batch.logits_rows.tolist())
        assert len(wanted) == len(batch.logits_rows)
        tables, positions, ids = (
            t.numpy() for t in (batch.page_tables, batch.positions, batch.input_ids)
        )
        self.rows += len(ids)
        written: set[tuple[int, int]] = set()
        for s, length in enumerate(batch.context_lengths.tolist()):
            rows = slice(starts[s], starts[s + 1])
            assert positions[rows].tolist() == list(
                range(length - (rows.stop - rows.start), length)
            )
            for row in range(rows.start, rows.stop):
                place = (
                    int(tables[s, positions[row] // PAGE_SIZE]),
                    int(positions[row]) % PAGE_SIZE,
                )
                assert place[0] >= 0
                assert place not in written, "two sequences write one slot"
                written.add(place)
                storage[place] = (ids[row], positions[row])
        logits = []
        for s, length in enumerate(batch.context_lengths.tolist()):
            pages = tables[s, : -(-length // PAGE_SIZE)]
            assert (pages >= 0).all() and len(set(pages.tolist())) == len(pages)
            content = storage[pages].reshape(-1, 2)
            for row in range(starts[s], starts[s + 1]):
                if row not in wanted:
                    continue
                seen = content[: positions[row] + 1]
                assert (seen[:, 1] == np.arange(len(seen))).all(), "a latent of another place"
                logits.append(fake_logits(seen[:, 0].astype(np.int64)))
        return torch.from_numpy(np.stack(logits)) if logits else torch.zeros(0, VOCAB)


def reference(
    prompt: Sequence[int], params: SamplingParams, *, seed: int, index: int = 0, max_context: int
) -> list[int]:
    """What one answer must be: token by token, alone, from the plain list."""
    tokens = list(prompt)
    limit = min(max_context, len(prompt) + (params.max_tokens or max_context))
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else (END,))}
    counts: Counter[int] = Counter()
    while len(tokens) < limit:
        position = len(tokens) - len(prompt)
        row = SampleRow(
            params=params,
            seed=derive_seed(seed, index),
            position=position,
            counts=counts,
            prompt_tokens=frozenset(prompt) if params.repetition_penalty != 1 else frozenset(),
            banned=tuple(ends) if position < params.min_tokens else (),
        )
        (picked,) = sample(torch.from_numpy(fake_logits(np.array(tokens)))[None], [row])
        assert isinstance(picked, Sampled)
        tokens.append(picked.token)
        counts[picked.token] += 1
        if picked.token in ends:
            break
    return tokens[len(prompt) :]


def fake_engine(
    *,
    pages: int = 12,
    max_batch_tokens: int = 64,
    max_sequences: int = 4,
    max_draft_tokens: int = 0,
    max_context: int = 1024,
    seed: int = 0,
) -> Engine:
    cache = PagedLatentCache(num_layers=1, latent_dim=2, num_pages=pages, dtype=torch.float32)
    cache.storage.fill_(-1)
    config = EngineConfig(
        vocab_size=VOCAB,
        max_context=max_context,
        identity="fake",
        stop_ids=frozenset({END}),
        scheduler=SchedulerConfig(max_batch_tokens, max_sequences, max_draft_tokens),
        seed=seed,
    )
    return Engine(FakeForward(), cache, config)


def run(engine: Engine, *, most: int = 10_000) -> list[SequenceOutput]:
    """Step until nothing is left to do."""
    outputs: list[SequenceOutput] = []
    for _ in range(most):
        if not engine.has_work:
            return outputs
        outputs += engine.step()
    raise AssertionError(f"the engine did not come to an end in {most} steps")


def answers(outputs: Sequence[SequenceOutput]) -> dict[tuple[str, int], list[int]]:
    """(request id, index) -> its tokens."""
    tokens: dict[tuple[str, int], list[int]] = {}
    for output in outputs:
        tokens.setdefault((output.request_id, output.index), []).extend(output.tokens)
    return tokens


def check_pages(engine: Engine) -> None:
    """Every page is accounted for: held exactly by the running sequences, else idle or free."""
    pages = engine.pages
    holders: dict[int, int] = {}
    for sequence in engine.scheduler.running:
        assert len(sequence.pages) * PAGE_SIZE >= sequence.num_computed
        for page in sequence.pages:
            holders[page] = holders.get(page, 0) + 1
    for sequence in engine.scheduler.waiting:
        assert not sequence.pages
    assert {p: n for p in range(pages.num_pages) if (n := pages.holders(p))} == holders
    assert pages.num_free + pages.num_idle + len(holders) == pages.num_pages
    for node, place in check_tree(engine.prefix_cache):
        if isinstance(engine.runner, FakeForward):
            content = engine.cache.storage[0, node.page, : node.num_tokens]
            assert content[:, 0].tolist() == memoryview(node.content).cast("i").tolist()
            assert content[:, 1].tolist() == list(range(place, place + node.num_tokens))


def check_tree(cache: PrefixCache) -> list[tuple[PrefixNode, int]]:
    """The rules of the prefix tree; all its nodes, and the place of the first token of each."""
    idle = {page: age for age, page in enumerate(cache._pages._idle)}
    nodes: list[tuple[PrefixNode, int]] = []
    open_ = [(root, 0) for root in cache._roots.values()]
    while open_:
        node, end = open_.pop()
        nodes += [(follower, end) for follower in node.following]
        open_ += [(follower, end + PAGE_SIZE) for follower in node.following]
        full = [follower for follower in node.following if not follower.is_tail]
        assert {follower.key: follower for follower in full} == node.children
        assert all(follower.num_tokens == PAGE_SIZE for follower in full)
        for one, next_ in pairwise(node.following):
            assert one.content < next_.content
            assert not (one.is_tail and next_.content.startswith(one.content))
        if node.page >= 0:
            assert cache._pages._named[node.page] and cache._node_of_page[node.page] is node
        if node.page in idle:  # then all that continue it are too, and older
            assert all(idle[f.page] < idle[node.page] for f in node.following)
    assert len(nodes) == len(cache) and set(idle) <= set(cache._node_of_page)
    return nodes
