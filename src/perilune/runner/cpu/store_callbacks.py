"""An `ExpertStore` as the C forward calls it (`plk_expert_store` in `csrc/forward.h`).

An exception cannot cross C: the callback keeps it and ends the step, the caller raises it after.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_int, c_int32, c_int64, c_void_p
from typing import Any, Final

import torch

from perilune.errors import ExpertStoreError
from perilune.runner.expert_store import ExpertStore, store_errors

ACQUIRE: Final = CFUNCTYPE(c_int, c_void_p, c_int32, c_int64, c_int64, POINTER(c_int32))
RELEASE: Final = CFUNCTYPE(None, c_void_p, c_int32)


class StoreStruct(ctypes.Structure):
    """`plk_expert_store`."""

    _fields_ = [("context", c_void_p), ("acquire", ACQUIRE), ("release", RELEASE)]


class StoreCallbacks:
    """Keeps the callbacks of one store alive, and what it raised in the last step."""

    def __init__(self, store: ExpertStore) -> None:
        self._store = store
        self._error: BaseException | None = None
        self._asked: int | None = None  # the latest layer
        self.struct = StoreStruct(None, ACQUIRE(self._acquire), RELEASE(self._release))

    def _acquire(self, _context: Any, layer: int, tokens: int, top_k: int, experts: Any) -> int:
        self._asked = layer
        values = (c_int32 * (tokens * top_k)).from_address(ctypes.addressof(experts.contents))
        chosen = torch.frombuffer(values, dtype=torch.int32).clone().view(tokens, top_k)
        return self._call(layer, lambda: self._store.acquire(layer, chosen))

    def _release(self, _context: Any, layer: int) -> None:
        self._call(layer, lambda: self._store.release(layer))

    def _call(self, layer: int, call: Callable[[], None]) -> int:
        try:
            with store_errors(layer):
                call()
        except BaseException as error:  # an interrupt too: it goes on as it came
            self._error = self._error or error
            return 1
        return 0

    def begin(self) -> None:
        """A step begins."""
        self._error = self._asked = None

    def raise_error(self) -> None:
        """Raise what the store raised in this step."""
        if self._error is not None:
            raise self._error

    def explain(self) -> None:
        """The step ended because an expert is missing: raise the store's reason, if any."""
        self.raise_error()
        if self._asked is not None:
            raise ExpertStoreError("the store left an expert without an address", layer=self._asked)
