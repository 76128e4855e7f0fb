"""`ModelRunner`: what computes a step of the engine, on whatever device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from perilune.runner.batch import ForwardBatch
from perilune.runner.cache import PagedLatentCache


class ModelRunner(Protocol):
    """The network behind the engine."""

    def execute(self, batch: ForwardBatch, cache: PagedLatentCache) -> Tensor:
        """Write the latents of all rows into `cache`; -> float32 logits [R, V] on the CPU."""
