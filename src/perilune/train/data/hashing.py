"""Seeded integer hashing: the same on every machine, and cheap."""

from __future__ import annotations

_MASK = 2**64 - 1


def hash64(seed: int, index: int) -> int:
    """64 well-mixed bits of two integers (SplitMix64, Steele, Lea, Flood 2014)."""
    return _mix(_mix(seed & _MASK) ^ (index & _MASK))


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) of two integers."""
    return (hash64(seed, index) >> 11) / 2**53


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
