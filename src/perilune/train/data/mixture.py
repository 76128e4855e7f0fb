"""Several sources as one: which one a document comes from is a seeded hash of its index."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from perilune.errors import UsageError
from perilune.train.data.document import Document
from perilune.train.data.hashing import uniform
from perilune.train.data.sources import make_source


@dataclass(frozen=True, slots=True)
class MixtureSpec:
    """What a worker process needs to make the documents: (name, weight, options) a source."""

    sources: tuple[tuple[str, float, dict[str, Any]], ...]
    seed: int
    tokenizer: Path | None


class Mixture:
    """Document number `index` of a mixture. Its `source` names where it came from."""

    def __init__(self, spec: MixtureSpec) -> None:
        weights = [weight for _, weight, _ in spec.sources]
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise UsageError(
                f"the weights of the data sources are {weights}",
                remedy="Give at least one source, and weights of which none is negative",
            )
        self._seed = spec.seed
        self._names = [name for name, _, _ in spec.sources]
        self._ends: Sequence[float] = [end / sum(weights) for end in accumulate(weights)]
        self._sources = [
            make_source(name, spec.seed, spec.tokenizer, options)
            for name, _, options in spec.sources
        ]

    def __call__(self, index: int) -> Document:
        number = min(bisect_right(self._ends, uniform(self._seed, index)), len(self._ends) - 1)
        document = self._sources[number](index)
        return document if document.source else replace(document, source=self._names[number])
