"""Several rankings of the same things made one, by reciprocal rank.

A thing's score is the sum of 1 / (60 + rank) over the rankings that hold it (Cormack, Clarke and
Buettcher, SIGIR 2009).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

K = 60


def fuse(rankings: Iterable[Sequence[T]], *, k: int = K) -> list[T]:
    """One ranking, best first; ties stay in the order in which they were first seen."""
    scores: dict[T, float] = {}
    for ranking in rankings:
        for rank, each in enumerate(dict.fromkeys(ranking), 1):
            scores[each] = scores.get(each, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda each: -scores[each])
