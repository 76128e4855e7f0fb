"""Decodes pictures and clips beside the steps, one item at a time: bytes of a source to patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from perilune.chat.media.items import LoadedItem, OpenMedia
from perilune.chat.media.reader import MediaReader
from perilune.engine.media import MediaFeature, MediaSource
from perilune.errors import MediaError, MediaFault

_PLAIN = (0.5, 0.5, 0.5)  # mean and deviation by which the tower itself normalises bytes


class _Reading:
    """A source that is open; a clip's items are decoded in order, each when it is asked for."""

    def __init__(self, media: OpenMedia) -> None:
        self.media = media
        self._ahead: list[int] = []  # indices that the iterator still gives
        self._items: Iterator[LoadedItem] = iter(())

    def load(self, index: int) -> LoadedItem:
        if index not in self._ahead:  # the first, or one that was dropped and is needed again
            self._ahead = list(range(index, len(self.media.items)))
            self._items = self.media.load(self._ahead)
        for loaded in self._items:
            if self._ahead.pop(0) == index:
                return loaded
        raise MediaError(MediaFault.TRUNCATED, "fewer pictures came out than the header says")


class MediaDecoder:
    """One thread that opens and decodes. `reader`: the rule and the bounds."""

    def __init__(self, reader: MediaReader, executor: Executor | None = None) -> None:
        self.reader = reader
        self._executor = executor or ThreadPoolExecutor(1, "perilune-decoder")
        # As long as a request keeps its sources.
        self._readings: WeakKeyDictionary[MediaSource, _Reading] = WeakKeyDictionary()

    def submit(self, source: MediaSource, feature: MediaFeature) -> Future[Tensor]:
        """-> patches [P, 3*p*p], bytes, or float32 where the rule's mean is its own.

        The future fails with MediaError for what cannot be decoded.
        """
        return self._executor.submit(self._load, source, feature)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _load(self, source: MediaSource, feature: MediaFeature) -> Tensor:
        reading = self._readings.get(source)
        if reading is None:
            reading = _Reading(self.reader.open(source.data, source.kind))
            self._readings[source] = reading
        items: Sequence[object] = reading.media.items
        if feature.index >= len(items) or not _agrees(reading.media, feature):
            raise MediaError(
                MediaFault.DAMAGED,
                f"item {feature.index} of the {source.kind} is not what was announced",
                remedy="Give client and engine the same checkpoint and the same version",
            )
        patches = reading.load(feature.index).patches
        processing = self.reader.processing
        if processing.mean != _PLAIN or processing.std != _PLAIN:
            from perilune.chat.media.patches import normalized  # Pillow: with the first picture

            return torch.from_numpy(normalized(patches, processing)).flatten(1)
        return torch.from_numpy(patches).flatten(1)


def _agrees(media: OpenMedia, feature: MediaFeature) -> bool:
    item = media.items[feature.index]
    return item.digest == feature.digest and tuple(item.grid) == feature.grid
