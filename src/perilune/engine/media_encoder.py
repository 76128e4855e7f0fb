"""The encoder step: which pictures are decoded and encoded next, and the rows of those that are.

A step encodes at most `max_patches` patches, so that a picture does not hold up the tokens of
others. A larger picture goes through the tower a few blocks a step: what counts is patches times
blocks. Order is that of the running sequences, and in each that of the places.

A sequence computes rows up to the first picture whose vectors are not there. Nothing is noted of
who needs what: it follows, anew each step, from the running sequences and how far they are. So
neither preemption nor cancellation can leave anything behind.

Requests of different cache salts share no rows: how soon an answer comes must not tell one tenant
what another has shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from perilune.engine.encoder_cache import EncoderCache
from perilune.engine.media import MediaFeature, MediaSource
from perilune.engine.media_decoder import MediaDecoder
from perilune.engine.metrics import EncoderMetrics
from perilune.engine.request import Request, SequenceState
from perilune.engine.scheduler_output import ScheduledSequence
from perilune.errors import MediaError, MediaRequestError, PeriluneError
from perilune.model.vision.grids import Grids
from perilune.runner.batch import RowVectors
from perilune.vision_config import VisionConfig

WAIT_SECONDS = 0.02  # for a decoder, when there is nothing else to do; then commands are looked at
Failures = list[tuple[Request, PeriluneError]]


class Run(Protocol):
    """Items on their way through a tower: `runner.vision.EncoderRun`."""

    patches: int

    def advance(self) -> Tensor | None: ...


class Tower(Protocol):
    """What encodes: `runner.vision.VisionEncoder`."""

    @property
    def num_blocks(self) -> int: ...

    def start(self, patches: Tensor, grids: Grids) -> Run: ...


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """vision: the tower's. dtype: of the rows that are kept, the model's activation type.

    max_patches: encoded in a step. cache_bytes: of rows, at least those of the largest item.
    """

    vision: VisionConfig
    dtype: torch.dtype
    max_patches: int = 2048
    cache_bytes: int = 1 << 30

    def nbytes(self, feature: MediaFeature) -> int:
        """Of the rows of an item."""
        return feature.length * self.vision.text_hidden_size * self.dtype.itemsize


@dataclass(slots=True)
class _Encoding:
    """The run under way: its items by key, and the room that is promised to them."""

    items: dict[bytes, MediaFeature]
    run: Run
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An item that is needed and not there, and who needs it first."""

    number: int
    feature: MediaFeature
    source: MediaSource


class MediaEncoder:
    """Decodes and encodes for an engine. `model` names the weights."""

    def __init__(
        self,
        tower: Tower,
        decoder: MediaDecoder,
        config: EncoderConfig,
        *,
        model: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tower = tower
        self.decoder = decoder
        self.config = config
        self.cache = EncoderCache(config.cache_bytes, model=model)
        self.metrics = EncoderMetrics()
        self._model = model
        self._clock = clock
        self._decoding: dict[bytes, Future[Tensor]] = {}  # under way, and done but not encoded yet
        self._patches: dict[bytes, int] = {}  # of them
        self._encoding: _Encoding | None = None

    def restarted(self) -> MediaEncoder:
        """The same over an empty cache; what is under way is dropped."""
        decoder = MediaDecoder(self.decoder.reader)
        self.close()
        return MediaEncoder(self.tower, decoder, self.config, model=self._model, clock=self._clock)

    def close(self) -> None:
        self.clear()
        self.decoder.close()

    def clear(self) -> None:
        """Forget all rows, and drop what is under way: the weights are others now."""
        self._drop_run()
        self.cache.clear()

    # --- what the scheduler asks ---------------------------------------------------------------

    def admitted(self, sequence: SequenceState, first_time: bool) -> None:
        """A sequence begins to run, its first `num_computed` tokens found in the prefix cache."""
        media = sequence.request.media
        if media is None or not first_time:
            return
        needed = media.behind(sequence.num_computed)
        self.metrics.reused += len(media.features) - len(needed)
        for feature in needed:
            if _key(sequence.request, feature) in self.cache:
                self.metrics.hits += 1
            else:
                self.metrics.misses += 1

    def ready(self, sequence: SequenceState) -> int:
        """Where the first picture begins whose rows are missing; behind all tokens if none is."""
        request = sequence.request
        if request.media is not None:
            for feature in request.media.behind(sequence.num_computed):
                if _key(request, feature) not in self.cache:
                    return feature.start
        return len(sequence.tokens)

    def vectors(self, part: ScheduledSequence) -> RowVectors | None:
        """The rows of a step's part that are of pictures; rows are counted from its first."""
        media = part.sequence.request.media
        if media is None:
            return None
        end = part.start + part.count
        rows: list[Tensor] = []
        values: list[Tensor] = []
        for feature in media.behind(part.start):
            if feature.start >= end:
                break
            known = self.cache.get(_key(part.sequence.request, feature))
            assert known is not None and known.shape[0] == feature.length
            first, last = max(feature.start, part.start), min(feature.end, end)
            rows.append(torch.arange(first - part.start, last - part.start, dtype=torch.int32))
            values.append(known[first - feature.start : last - feature.start])
        return RowVectors(torch.cat(rows), torch.cat(values)) if rows else None

    # --- a step --------------------------------------------------------------------------------

    def step(self, running: Sequence[SequenceState], *, idle: bool) -> Failures:
        """Decode and encode for the running sequences, within the budget; requests that failed.

        idle: the engine has nothing else to do, so a decoder may be waited for, a moment.
        """
        needed, wanted = self._needed(running)
        self._keep_decoding(wanted)
        if self._encoding is not None and not any(key in wanted for key in self._encoding.items):
            self._drop_run()
        budget = self.config.max_patches * self.tower.num_blocks
        failures: Failures = []
        worked = False
        while wanted and budget > 0:
            self._decode_ahead(wanted)
            if self._encoding is None:
                failures += self._failed(running, wanted)
                self._start_run(needed, wanted)
            if self._encoding is None:
                break
            budget -= self._advance(wanted)
            worked = True
        self.metrics.cache_bytes, self.metrics.cache_entries = self.cache.bytes, len(self.cache)
        if idle and not worked and not failures:
            wait(self._decoding.values(), timeout=WAIT_SECONDS, return_when="FIRST_COMPLETED")
        return failures

    def _needed(
        self, running: Sequence[SequenceState]
    ) -> tuple[dict[bytes, int], dict[bytes, _Wanted]]:
        """Numbers of the items that running sequences still read, in order; those not there."""
        needed: dict[bytes, int] = {}
        wanted: dict[bytes, _Wanted] = {}
        for sequence in running:
            media = sequence.request.media
            if media is None:
                continue
            for feature in media.behind(sequence.num_computed):
                key = _key(sequence.request, feature)
                if key in needed:
                    continue
                needed[key] = len(needed)
                if key not in self.cache:
                    wanted[key] = _Wanted(needed[key], feature, media.sources[feature.source])
        return needed, wanted

    def _keep_decoding(self, wanted: dict[bytes, _Wanted]) -> None:
        """Let go of what nobody needs any more."""
        for key in [key for key in self._decoding if key not in wanted]:
            self._decoding.pop(key).cancel()
            del self._patches[key]

    def _decode_ahead(self, wanted: dict[bytes, _Wanted]) -> None:
        """Keep the decoder at work: what the next run takes and as much again, one item at least.

        Pixels that wait take memory, so more is not decoded.
        """
        on_the_way = {} if self._encoding is None else self._encoding.items
        for key, each in wanted.items():
            if key in on_the_way or key in self._decoding:
                continue
            patches = sum(self._patches.values())
            if patches and patches + each.feature.patches > 2 * self.config.max_patches:
                break
            self._decoding[key] = self.decoder.submit(each.source, each.feature)
            self._patches[key] = each.feature.patches

    def _failed(self, running: Sequence[SequenceState], wanted: dict[bytes, _Wanted]) -> Failures:
        """The requests whose pictures could not be decoded; these are wanted no longer."""
        failures: Failures = []
        for key, future in list(self._decoding.items()):
            if not future.done() or (cause := future.exception()) is None:
                continue
            del self._decoding[key], self._patches[key], wanted[key]
            for sequence in running:
                request, media = sequence.request, sequence.request.media
                if media is None or any(request is known for known, _ in failures):
                    continue
                features = media.behind(sequence.num_computed)
                place = next((i for i, f in enumerate(features) if _key(request, f) == key), None)
                if place is not None:
                    number = len(media.features) - len(features) + place + 1
                    failures.append((request, _failure(cause, number, len(media.features))))
        return failures

    def _start_run(self, needed: dict[bytes, int], wanted: dict[bytes, _Wanted]) -> None:
        """Begin with the next items that are decoded and have room, in order."""
        chosen: dict[bytes, MediaFeature] = {}
        pixels: list[Tensor] = []
        patches = nbytes = 0
        for key, each in wanted.items():
            future = self._decoding.get(key)
            size = self.config.nbytes(each.feature)
            if future is None or not future.done() or future.exception() is not None:
                break
            if chosen and patches + each.feature.patches > self.config.max_patches:
                break
            if not self.cache.reserve(size, needed, each.number):
                break
            chosen[key] = each.feature
            pixels.append(future.result())
            patches += each.feature.patches
            nbytes += size
        if not chosen:
            return
        for key in chosen:
            del self._decoding[key], self._patches[key]
        self.metrics.decoded += len(chosen)
        run = self.tower.start(torch.cat(pixels), [each.grid for each in chosen.values()])
        self._encoding = _Encoding(chosen, run, nbytes)

    def _advance(self, wanted: dict[bytes, _Wanted]) -> int:
        """One block for the run under way; patches that went through it."""
        encoding = self._encoding
        assert encoding is not None
        started = self._clock()
        rows = encoding.run.advance()
        if rows is not None:
            self._encoding = None
            parts = torch.split(
                rows.to(self.config.dtype), [feature.length for feature in encoding.items.values()]
            )
            for key, part in zip(encoding.items, parts, strict=True):
                self.cache.insert(key, part.clone())  # else all would stay with one
                wanted.pop(key, None)
            self.metrics.encoded += len(encoding.items)
        self.metrics.seconds += self._clock() - started
        return encoding.run.patches if rows is None else 0

    def _drop_run(self) -> None:
        if self._encoding is not None:
            self.cache.cancel(self._encoding.nbytes)
            self._encoding = None


def _key(request: Request, feature: MediaFeature) -> bytes:
    return feature.key + request.cache_salt.encode("utf-8", "surrogatepass")


def _failure(cause: BaseException, number: int, count: int) -> MediaRequestError:
    """What a request is told. A decoder's own faults are no reason to stop the engine.

    `param` names the item for who knows where it stood in the conversation: `media[0]`, in order.
    """
    param = f"media[{number - 1}]"
    which = f"picture {number} of {count}" if count > 1 else "the picture"
    if isinstance(cause, MediaError):
        return MediaRequestError(f"{which}: {cause.message}", param=param, remedy=cause.remedy)
    said = f"{type(cause).__name__}: {cause}"
    return MediaRequestError(f"{which} could not be decoded: {said}", param=param)
