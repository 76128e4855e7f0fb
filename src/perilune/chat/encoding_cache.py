"""Encodings of texts that come again: a conversation's earlier messages, each turn anew."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable

MOST_CHARACTERS = 4 << 20  # kept; with their ids at most 40 MB or so
LONGEST = MOST_CHARACTERS // 16  # of one text that is kept


class EncodingCache:
    """Keeps the latest texts' ids, as many as `most_characters` hold. For any thread."""

    def __init__(
        self, encode: Callable[[str], list[int]], most_characters: int = MOST_CHARACTERS
    ) -> None:
        self._encode = encode
        self._most = most_characters
        self._characters = 0
        self._ids: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> list[int]:
        with self._lock:
            kept = self._ids.get(text)
            if kept is not None:
                self._ids.move_to_end(text)
        if kept is not None:
            return kept.tolist()
        ids = self._encode(text)
        if len(text) <= min(LONGEST, self._most):
            self._keep(text, array("i", ids))
        return ids

    def _keep(self, text: str, ids: array[int]) -> None:
        with self._lock:
            if text in self._ids:  # another thread was first
                return
            self._ids[text] = ids
            self._characters += len(text)
            while self._characters > self._most:
                oldest, _ = self._ids.popitem(last=False)
                self._characters -= len(oldest)
