"""How often a wanted expert is found in memory, where memory holds a part of them.

Interpolated in the logarithm of the share of the experts that memory holds, from measured points
(`data/efficiencies.toml`). Below one token's own set nothing is found again; with all of them
everything is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from perilune.errors import UsageError
from perilune.plan.figure import Case
from perilune.plan.reading import Entry


@dataclass(frozen=True, slots=True)
class HitRate:
    """Points (share held, share found), rising; `minus` for routers that are flatter."""

    shares: tuple[float, ...]
    hits: tuple[float, ...]
    minus: float
    spread: float
    source: str

    def at(self, share: float, one_token: float, case: Case = Case.EXPECTED) -> float:
        """Share of uses found, 0 to 1. `one_token`: the share of the experts that a token uses."""
        if share >= 1:
            return 1.0
        if share <= one_token or share <= 0:
            return 0.0
        shift = {Case.SLOW: -self.spread, Case.EXPECTED: 0.0, Case.FAST: self.spread}[case]
        points = [(one_token, 0.0)]
        for held, found in zip(self.shares, self.hits, strict=True):
            if held > one_token:
                points.append((held, min(max(found - self.minus + shift, 0.0), 1.0)))
        points.append((1.0, 1.0))
        place = math.log(share)
        for (low, a), (high, b) in itertools.pairwise(points):
            if share <= high:
                left, right = math.log(max(low, 1e-12)), math.log(high)
                return a + (b - a) * (place - left) / (right - left)
        return 1.0


def read_hit_rate(entry: Entry) -> HitRate:
    """Raises UsageError where the points do not rise."""
    shares, hits = entry.numbers("shares"), entry.numbers("hits")
    if len(shares) != len(hits) or sorted(shares) != shares or sorted(hits) != hits:
        raise UsageError(f"{entry.where}: shares and hits must rise together")
    if shares[0] <= 0 or shares[-1] >= 1 or hits[-1] > 1:
        raise UsageError(f"{entry.where}: shares and hits lie between 0 and 1")
    found = HitRate(
        tuple(shares),
        tuple(hits),
        entry.number("minus", 0.0),
        entry.number("spread", 0.0),
        entry.text("source"),
    )
    entry.text("date")
    entry.done()
    return found
