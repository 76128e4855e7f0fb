"""Numbers that were copied with digits lost, doubled or exchanged.

A copy is known by its length: two whole numbers of five digits and more that differ by one slip, or
of which one is the other without some digits in a row, are hardly two numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from perilune.search.almanac.text import edit_distance

LEAST_DIGITS = 5
_MOST_LOST = 3


def miscopied(
    value: Decimal, known: Iterable[Decimal], least: int = LEAST_DIGITS
) -> Decimal | None:
    """The known number that a value is a faulty copy of; None where it is none.

    `least`: digits that the longer one of both has at least.
    """
    written = digits(value)
    found = None
    for each in known:
        other = digits(each)
        if (
            written != other
            and max(len(written), len(other)) >= least
            and min(len(written), len(other)) >= 3
            and is_slip(written, other)
            and not _rounds(value, each)
        ):
            if len(other) >= len(written):
                return each
            found = each
    return found


def _rounds(value: Decimal, known: Decimal) -> bool:
    """Whether a value with noughts at its end is the known one, rounded to them."""
    if value != value.to_integral_value() or not value:
        return False
    written = f"{abs(value):f}".partition(".")[0]
    noughts = len(written) - len(written.rstrip("0"))
    return bool(noughts) and abs(value - known) <= Decimal(10) ** noughts / 2


def digits(value: Decimal) -> str:
    """The digits that carry a number, without sign, point and the zeros around."""
    text = f"{abs(value):f}"
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return (whole + fraction).lstrip("0") if fraction else whole.lstrip("0")


def is_slip(one: str, other: str) -> bool:
    """Whether one row of digits is the other with one slip, or with a few lost in a row."""
    if edit_distance(one, other, 1) <= 1:
        return True
    short, long = sorted((one, other), key=len)
    lost = len(long) - len(short)
    return 1 < lost <= _MOST_LOST and any(
        long[:at] + long[at + lost :] == short for at in range(len(short) + 1)
    )
