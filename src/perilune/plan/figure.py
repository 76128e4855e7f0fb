"""A number with its spread: of the data (with a source and a date), or worked out from such."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from perilune.errors import UsageError


class Case(Enum):
    """Which end of every spread a calculation takes."""

    SLOW = "slow"
    EXPECTED = "expected"
    FAST = "fast"


@dataclass(frozen=True, slots=True)
class Figure:
    """low <= value <= high, in one unit. `source` is empty for what was worked out."""

    value: float
    low: float
    high: float
    source: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        numbers = (self.low, self.value, self.high)
        if not all(map(math.isfinite, numbers)) or not self.low <= self.value <= self.high:
            raise UsageError(
                f"{self.low:g} <= {self.value:g} <= {self.high:g} does not hold",
                remedy="A figure is a finite value between its low and its high",
            )

    @classmethod
    def exactly(cls, value: float, source: str = "", date: str = "") -> Figure:
        return cls(value, value, value, source, date)

    def at(self, case: Case) -> float:
        """More is faster: the low end is the slow case."""
        return {Case.SLOW: self.low, Case.EXPECTED: self.value, Case.FAST: self.high}[case]

    def at_falling(self, case: Case) -> float:
        """More is slower (latencies): the high end is the slow case."""
        return {Case.SLOW: self.high, Case.EXPECTED: self.value, Case.FAST: self.low}[case]

    def __mul__(self, factor: float) -> Figure:
        return Figure(self.value * factor, self.low * factor, self.high * factor)

    def __add__(self, other: Figure) -> Figure:
        return Figure(self.value + other.value, self.low + other.low, self.high + other.high)


def spread(of: Callable[[Case], float]) -> Figure:
    """What comes out in the three cases, whichever of them is the smallest."""
    values = [of(case) for case in Case]
    return Figure(of(Case.EXPECTED), min(values), max(values))
