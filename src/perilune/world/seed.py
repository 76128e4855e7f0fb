"""Seeds: two splits that share nothing, and the deterministic streams drawn from them.

Everything in a world is a pure function of its seed. A stream's state is a BLAKE2b digest of
(split, index, purpose), so the streams of two splits, of two indices or of two purposes are
unrelated, in every process and on every machine. Only `random.Random.random` is used, the one
method whose sequence Python promises to keep.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from random import Random
from typing import TypeVar

from perilune.errors import UsageError

_T = TypeVar("_T")

GENERATOR_VERSION = 1
"""Raised when the same seed gives another world; recorded with every trained checkpoint."""

_KEY = b"perilune world %d" % GENERATOR_VERSION


class Split(StrEnum):
    """What a seed may be used for. Training never sees an exam world, name, prompt or phrasing."""

    TRAIN = "train"
    EXAM = "exam"


class Stream:
    """A deterministic source of choices."""

    __slots__ = ("_random",)

    def __init__(self, state: int) -> None:
        self._random = Random(state).random  # noqa: S311 - reproducibility, not secrecy

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[_T]) -> _T:
        return items[int(self._random() * len(items))]

    def shuffle(self, items: MutableSequence[_T]) -> None:
        """Fisher and Yates, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = int(self._random() * (last + 1))
            items[last], items[other] = items[other], items[last]

    def sample(self, items: Sequence[_T], count: int) -> list[_T]:
        """`count` different items in random order. Raises ValueError where there are fewer."""
        if count > len(items):
            raise ValueError(f"cannot sample {count} of {len(items)}")
        rest = list(items)
        for chosen in range(count):
            other = chosen + int(self._random() * (len(rest) - chosen))
            rest[chosen], rest[other] = rest[other], rest[chosen]
        return rest[:count]


@dataclass(frozen=True, slots=True, order=True)
class Seed:
    """Names one world: `Seed(Split.TRAIN, 7)`. Raises UsageError for an impossible index."""

    split: Split
    index: int

    def __post_init__(self) -> None:
        if isinstance(self.index, bool) or not isinstance(self.index, int):
            raise UsageError(f"A seed's index is a whole number, not {self.index!r}")
        if not 0 <= self.index < 2**63:
            raise UsageError(
                f"The seed index {self.index} is out of range", remedy="Use 0 to 2^63 - 1"
            )
        try:
            object.__setattr__(self, "split", Split(self.split))
        except ValueError:
            raise UsageError(
                f"There is no split {self.split!r}", remedy="Use Split.TRAIN or Split.EXAM"
            ) from None

    def stream(self, purpose: str) -> Stream:
        """The stream of this seed for one purpose; every call starts it anew."""
        text = f"{self.split.value}/{self.index}/{purpose}".encode()
        return Stream(int.from_bytes(blake2b(text, digest_size=16, key=_KEY).digest(), "big"))


def weighted(stream: Stream, weights: Mapping[str, int]) -> str:
    """One of the keys, as often as its weight says."""
    at = stream.below(sum(weights.values()))
    for name, weight in weights.items():
        at -= weight
        if at < 0:
            return name
    raise AssertionError
