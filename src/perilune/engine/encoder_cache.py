"""The encoder cache: rows that the tower gave for pictures, kept by content, bounded in bytes.

A prompt's chunks read a picture's rows from here, and another request that shows the same picture
finds them. What running sequences still need is kept; of the rest the one used last longest ago
goes first. Where even that is not enough, what is needed first is kept before what is needed later:
so the first in order always gets on, and the bound holds.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor


class EncoderCache:
    """Rows [tokens, D] of items, of one network. A key is content (`MediaFeature.key`) and salt."""

    def __init__(self, capacity: int, *, model: str) -> None:
        """`capacity` in bytes; `model` names the weights, which are part of every key."""
        self.capacity = capacity
        self.bytes = 0  # held, and promised to items on their way
        self._model = hashlib.blake2b(model.encode(), digest_size=16).digest()
        self._entries: OrderedDict[bytes, Tensor] = OrderedDict()  # used last longest ago first

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return self._model + key in self._entries

    def get(self, key: bytes) -> Tensor | None:
        """The rows of an item, which is now the one used last."""
        rows = self._entries.get(self._model + key)
        if rows is not None:
            self._entries.move_to_end(self._model + key)
        return rows

    def reserve(self, nbytes: int, needed: Mapping[bytes, int], rank: int) -> bool:
        """Promise room for an item that is needed as number `rank`; False: there is none yet.

        `needed`: the keys that running sequences still read, and as number what. Those before
        `rank` are kept; then nothing is dropped in vain either.
        """
        known = [(needed.get(key[len(self._model) :]), key) for key in self._entries]
        spare = [key for number, key in known if number is None]
        later = sorted(((n, key) for n, key in known if n is not None and n > rank), reverse=True)
        free = self.capacity - self.bytes
        dropped = []
        for key in [*spare, *(key for _, key in later)]:
            if free >= nbytes:
                break
            free += self._entries[key].nbytes
            dropped.append(key)
        if free < nbytes:
            return False
        for key in dropped:
            self.bytes -= self._entries.pop(key).nbytes
        self.bytes += nbytes
        return True

    def cancel(self, nbytes: int) -> None:
        """Room that was promised is not needed after all."""
        self.bytes -= nbytes

    def insert(self, key: bytes, rows: Tensor) -> None:
        """Put in what room was promised for."""
        before = self._entries.pop(self._model + key, None)
        if before is not None:
            self.bytes -= before.nbytes
        self._entries[self._model + key] = rows

    def clear(self) -> None:
        """Forget all rows; what is promised stays so."""
        self.bytes -= sum(rows.nbytes for rows in self._entries.values())
        self._entries.clear()
