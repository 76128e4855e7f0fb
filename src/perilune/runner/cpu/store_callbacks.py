"""An `ExpertStore` as the C forward calls it (`plk_expert_store` in `csrc/forward.h`).

An exception cannot cross C: the callback keeps it and ends the step, the caller raises it after.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_int, c_int32, c_int64, c_void_p
from typing import Any, Final

import torch

from perilune.runner.expert_store import ExpertStore, as_store_error

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
        self.struct = StoreStruct(None, ACQUIRE(self._acquire), RELEASE(self._release))

    def _acquire(self, _context: Any, layer: int, tokens: int, top_k: int, experts: Any) -> int:
        try:
            count = tokens * top_k
            values = (c_int32 * count).from_address(ctypes.addressof(experts.contents))
            chosen = torch.frombuffer(values, dtype=torch.int32).clone().view(tokens, top_k)
            self._store.acquire(layer, chosen)
        except Exception as error:
            self._error = as_store_error(error, layer)
            return 1
        except BaseException as error:  # an interrupt: it goes on as it came
            self._error = error
            return 1
        return 0

    def _release(self, _context: Any, layer: int) -> None:
        try:
            self._store.release(layer)
        except Exception as error:
            self._error = as_store_error(error, layer)
        except BaseException as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise what the store raised since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error
