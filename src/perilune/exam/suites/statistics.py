"""What a share of right answers says: Wilson intervals, and pass@k."""

from __future__ import annotations

from math import comb, sqrt

Z95 = 1.959963984540054


def wilson(right: float, total: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a share (Wilson 1927), 95 % by default; (0, 1) where nothing was asked.

    Unlike the usual +- it is right for few questions and for shares near 0 and 1.
    """
    if total == 0:
        return 0.0, 1.0
    share = right / total
    centre = share + z * z / (2 * total)
    spread = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At the ends the bound is exact; computed, it is off by a rounding.
    low = (centre - spread) / scale if right > 0 else 0.0
    high = (centre + spread) / scale if right < total else 1.0
    return low, high


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of `k` answers is right, from `samples` of which `right` are.

    The unbiased estimate of Chen et al. (arXiv 2107.03374). Raises ValueError for k > samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)
