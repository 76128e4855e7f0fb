"""Experts that are not all in memory: who brings them, between routing and expert products.

A runner asks its store for the chosen experts of a layer before their products and tells it when
the layer is done with them. Without a store nothing is asked and nothing is spent. Where the store
puts an expert is between it and the runner: for the C kernels into the layer's pointer table
(`CpuRunner.expert_tables`), for torch into the experts module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from perilune.errors import ExpertStoreError


class ExpertStore(Protocol):
    """Called by one thread, layer after layer in the order of the network.

    It may use other threads, but wait for none that calls the C kernels: their pool is taken by
    the step.
    """

    def acquire(self, layer: int, experts: Tensor) -> None:
        """Return when these experts of the layer can be computed with.

        `experts`: int32 [rows, experts per row] on the CPU, as the router chose them; the store's
        own. Raises what it likes (best ExpertStoreError) where they cannot be had; the step
        then ends with an ExpertStoreError.
        """

    def release(self, layer: int) -> None:
        """The products of the layer are done; what was acquired may go. Never after a failure."""


@contextmanager
def store_errors(layer: int) -> Iterator[None]:
    """Whatever a store raises (an interrupt aside) comes out as an ExpertStoreError."""
    try:
        yield
    except ExpertStoreError:
        raise
    except Exception as error:
        raise ExpertStoreError(str(error) or type(error).__name__, layer=layer) from error
