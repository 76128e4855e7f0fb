"""A network without weights that sees: its next token depends on every token and every row of a
picture, which picture it is and which row of it. See `fakes`.

Pictures are numbers. A decoder gives their patches some steps later, a tower walks its blocks, and
what they become is a number of that picture and row. A latent holds this number, so that whatever
is shared, stale or out of place changes what the network says.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perilune.chat.media.reader import MediaReader
from perilune.engine.engine import Engine
from perilune.engine.input_processor import EngineConfig
from perilune.engine.media import MediaFeature, MediaSource, RequestMedia
from perilune.engine.media_decoder import MediaDecoder
from perilune.engine.media_encoder import EncoderConfig, MediaEncoder
from perilune.engine.sampler import Sampled, SampleRow, derive_seed, sample
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.scheduler import SchedulerConfig
from perilune.errors import MediaError, MediaFault
from perilune.model.vision.grids import Grids, read_grids, token_counts
from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache
from perilune.vision_config import VisionConfig

from .fakes import END, VOCAB, check_tree, fake_logits

PAD = 22  # END is 23
# Two pictures of each grid; the last are damaged.
GRIDS = [(1, 2, 2), (1, 4, 6), (2, 4, 4), (1, 8, 8), (1, 12, 12), (1, 16, 20)]
PICTURES = 2 * len(GRIDS)
DAMAGED = {PICTURES, PICTURES + 1}
VISION = VisionConfig(text_hidden_size=1, media_token_id=PAD)
LARGEST = 80 * 4  # bytes of the rows of the largest

Document = list[int]  # tokens; a picture is -1 - its number


def grid_of(picture: int) -> tuple[int, int, int]:
    return GRIDS[picture // 2 % len(GRIDS)]


def row_value(picture: int, row: int) -> int:
    return 100 + picture * 128 + row


def shown(document: Document) -> tuple[list[int], RequestMedia | None, list[int]]:
    """-> the prompt's tokens, what it shows, and what its latents hold."""
    tokens: list[int] = []
    contents: list[int] = []
    features: list[MediaFeature] = []
    sources: dict[int, MediaSource] = {}
    for each in document:
        if each >= 0:
            tokens.append(each)
            contents.append(each)
            continue
        picture = -1 - each
        grid = grid_of(picture)
        sources.setdefault(picture, MediaSource("image", picture.to_bytes(2, "big")))
        digest = hashlib.sha256(sources[picture].data).hexdigest()
        place = list(sources).index(picture)
        features.append(MediaFeature(len(tokens), digest, grid, place))
        contents += [row_value(picture, row) for row in range(features[-1].length)]
        tokens += [PAD] * features[-1].length
    if not features:
        return tokens, None, contents
    return tokens, RequestMedia(tuple(sources.values()), tuple(features)), contents


class FakeDecoder(MediaDecoder):
    """Gives patches that hold the picture's number, some calls of `tick` later."""

    def __init__(self, rng: random.Random | None = None) -> None:
        super().__init__(MediaReader())
        self.asked: Counter[int] = Counter()
        self._rng = rng
        self._open: list[tuple[Future[Tensor], int]] = []

    def submit(self, source: MediaSource, feature: MediaFeature) -> Future[Tensor]:
        picture = int.from_bytes(source.data, "big")
        self.asked[picture] += 1
        self._open.append((Future(), picture))
        future = self._open[-1][0]
        if self._rng is None:
            self.tick()
        return future

    def tick(self) -> None:
        left = []
        for future, picture in self._open:
            if future.cancelled():
                continue
            if self._rng is not None and self._rng.random() < 0.5:
                left.append((future, picture))
            elif picture in DAMAGED:
                future.set_exception(MediaError(MediaFault.DAMAGED, "it is damaged"))
            else:
                t, h, w = grid_of(picture)
                future.set_result(torch.full((t * h * w, 1), float(picture)))
        self._open = left


@dataclass
class FakeRun:
    values: Tensor
    blocks: int
    patches: int

    def advance(self) -> Tensor | None:
        self.blocks -= 1
        return self.values if self.blocks < 0 else None


class FakeTower:
    def __init__(self, num_blocks: int = 3) -> None:
        self.num_blocks = num_blocks
        self.encoded: Counter[int] = Counter()
        self.largest = 0  # patches of a run

    def start(self, patches: Tensor, grids: Grids) -> FakeRun:
        values: list[int] = []
        first = 0
        for (t, h, w), count in zip(read_grids(grids), token_counts(grids), strict=True):
            numbers = set(patches[first : first + t * h * w, 0].tolist())
            assert len(numbers) == 1
            picture = int(numbers.pop())
            assert grid_of(picture) == (t, h, w)
            self.encoded[picture] += 1
            values += [row_value(picture, row) for row in range(count)]
            first += t * h * w
        assert first == patches.shape[0]
        self.largest = max(self.largest, first)
        return FakeRun(torch.tensor(values)[:, None].float(), self.num_blocks, first)


class SeeingForward:
    """`ModelRunner`: a latent is (token or value of the row's vector, position)."""

    def __init__(self) -> None:
        self.rows = 0

    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        storage = cache.storage[0].numpy()
        starts = batch.query_starts.tolist()
        tables, positions = batch.page_tables.numpy(), batch.positions.numpy()
        values = batch.input_ids.numpy().astype(np.float32)
        seen = values == PAD
        if batch.vectors is not None:
            batch.vectors.check(batch.num_rows, 1, torch.float32)
            rows = batch.vectors.rows.numpy()
            assert seen[rows].all(), "a vector for a token of text"
            seen[rows] = False
            values[rows] = batch.vectors.values[:, 0].numpy()
        assert not seen.any(), "a placeholder without a vector"
        self.rows += len(values)
        wanted = set(batch.logits_rows.tolist())
        logits = []
        for s, length in enumerate(batch.context_lengths.tolist()):
            for row in range(starts[s], starts[s + 1]):
                page = tables[s, positions[row] // PAGE_SIZE]
                storage[page, positions[row] % PAGE_SIZE] = (values[row], positions[row])
            pages = tables[s, : -(-length // PAGE_SIZE)]
            assert (pages >= 0).all()
        for s, length in enumerate(batch.context_lengths.tolist()):
            content = storage[tables[s, : -(-length // PAGE_SIZE)]].reshape(-1, 2)
            for row in range(starts[s], starts[s + 1]):
                if row in wanted:
                    context = content[: positions[row] + 1]
                    assert (context[:, 1] == np.arange(len(context))).all()
                    logits.append(seeing_logits(context[:, 0].astype(np.int64)))
        return torch.from_numpy(np.stack(logits)) if logits else torch.zeros(0, VOCAB)


def seeing_logits(context: np.ndarray) -> np.ndarray:
    """As `fake_logits`, of values that may be of pictures; it likes to say PAD."""
    tail = context.copy()
    tail[-3:] %= VOCAB  # it repeats what stands three back
    mixed = tail.copy()
    mixed[:-3] = context[:-3]
    logits = fake_logits(mixed)
    logits[PAD] += 3
    return logits


def seeing_reference(
    document: Document, params: SamplingParams, *, seed: int, index: int, max_context: int
) -> list[int]:
    """What one answer must be: token by token, alone, from the plain list."""
    prompt, _, contents = shown(document)
    limit = min(max_context, len(prompt) + (params.max_tokens or max_context))
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else (END,))}
    counts: Counter[int] = Counter()
    said: list[int] = []
    while len(prompt) + len(said) < limit:
        row = SampleRow(
            params=params,
            seed=derive_seed(seed, index),
            position=len(said),
            counts=counts,
            prompt_tokens=frozenset(prompt) if params.repetition_penalty != 1 else frozenset(),
            banned=tuple(ends) if len(said) < params.min_tokens else (),
        )
        logits = torch.from_numpy(seeing_logits(np.array(contents + said)))[None]
        (picked,) = sample(logits, [row], never=[PAD])
        assert isinstance(picked, Sampled)
        said.append(picked.token)
        counts[picked.token] += 1
        if picked.token in ends:
            break
    return said


def seeing_engine(
    *,
    pages: int = 12,
    max_batch_tokens: int = 64,
    max_sequences: int = 4,
    max_draft_tokens: int = 0,
    max_context: int = 512,
    max_patches: int = 64,
    cache_bytes: int = 1 << 16,
    blocks: int = 3,
    rng: random.Random | None = None,
) -> tuple[Engine, FakeDecoder, FakeTower]:
    cache = PagedLatentCache(num_layers=1, latent_dim=2, num_pages=pages, dtype=torch.float32)
    cache.storage.fill_(-1)
    encoder = EncoderConfig(VISION, torch.float32, max_patches, cache_bytes)
    decoder, tower = FakeDecoder(rng), FakeTower(blocks)
    config = EngineConfig(
        vocab_size=VOCAB,
        max_context=max_context,
        identity="fake",
        stop_ids=frozenset({END}),
        scheduler=SchedulerConfig(max_batch_tokens, max_sequences, max_draft_tokens),
        seed=0,
        pad_ids=frozenset({PAD}),
        encoder=encoder,
    )
    seeing = MediaEncoder(tower, decoder, encoder, model="fake")
    return Engine(SeeingForward(), cache, config, media_encoder=seeing), decoder, tower


def check_named_pages(engine: Engine) -> None:
    """Every named page holds what its name says: these tokens, and these rows of these pictures."""
    digests = {
        hashlib.sha256(picture.to_bytes(2, "big")).digest(): picture
        for picture in range(PICTURES + len(DAMAGED))
    }
    numbers: dict[int, int] = {}
    for key, first in engine.prefix_cache._numbers.items():
        picture = digests[key[:32]]
        _, h, w = grid_of(picture)
        for row in range(h * w // 4):
            numbers[first - row] = row_value(picture, row)
    for node, place in check_tree(engine.prefix_cache):
        content = engine.cache.storage[0, node.page, : node.num_tokens]
        named = [numbers.get(n, n) for n in memoryview(node.content).cast("i").tolist()]
        assert content[:, 0].tolist() == named
        assert content[:, 1].tolist() == list(range(place, place + node.num_tokens))
