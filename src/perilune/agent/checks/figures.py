"""Figures: numbers as they are written in an answer, with the half of their last place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

_SCALES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
    "k": 3, "m": 6, "bn": 9, "mn": 6,  # k, K and M right after the number only
}  # fmt: skip
_UNITS = (
    "km|cm|mm|nm|m|kg|g|mg|t|s|ms|h|min|kW|MW|W|V|A|K|Hz|kHz|MHz|GHz|kB|KB|MB|GB|TB|MiB|GiB|x|"
    "st|nd|rd|th|k|M|bn|mn|px|pt|km2|m2|m3|e"
)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<![\w)\]])[-−+])?"
    r"(?P<digits>\d{1,3}(?:[,'’\u00a0\u202f\u2009 ]\d{3})+(?!\d)|\d+)(?P<fraction>\.\d+)?"
    r"(?:[eE](?P<power>[-+]?\d{1,3}))?"
    rf"(?:(?=[^\w]|$)|(?=(?:{_UNITS})\b)|(?=_))"
    r"(?:[ \u00a0-]?(?P<scale>(?:hundred|thousand|million|billion|trillion|bn|mn)\b|"
    r"(?-i:(?<=\d)[kKM]\b)))?"
    r"(?P<percent>\s?(?:%|per ?cent\b))?",
    re.I,
)
_HEDGE = re.compile(
    r"(?:about|around|roughly|approximately|approx\.?|nearly|almost|over|under|more than|less than|"
    r"at least|at most|some|ca\.|circa|[~≈<>≤≥])\s*$", re.I,
)  # fmt: skip
_MINUS = re.compile(r"(?:^|[^\w)\]])[-−]$")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number as written: its value, and the half of its last place, in which rounding falls."""

    text: str
    value: Decimal
    slack: Decimal
    percent: bool = False
    hedged: bool = False
    start: int = 0
    end: int = 0

    def fits(self, other: Decimal) -> bool:
        """Whether the other number, rounded as this one is written, is this one."""
        candidates = [other, other * 100] if self.percent else [other]
        return any(
            abs(each - self.value) <= self.slack and (each == self.value or self._rounds(each))
            for each in (*candidates, *(abs(each) for each in candidates))
        )

    def _rounds(self, other: Decimal) -> bool:
        # A whole number is no rounding of another whole number, unless it says so.
        return self.hedged or self.slack != Decimal("0.5") or other != other.to_integral_value()


def figures_in(text: str) -> list[Figure]:
    """The numbers of a text, in its order."""
    found = []
    for match in _NUMBER.finditer(text):
        figure = _figure(match, bool(_HEDGE.search(text[: match.start()])))
        if figure is not None:
            found.append(figure)
    return found


def _figure(match: re.Match[str], hedged: bool) -> Figure | None:
    digits = re.sub(r"\D", "", match["digits"])
    fraction = match["fraction"] or ""
    try:
        value = Decimal(digits + fraction) * (
            Decimal(10) ** int(match["power"] or 0) * Decimal(10) ** _scale(match["scale"])
        )
    except (InvalidOperation, OverflowError):
        return None
    if match["sign"] in ("-", "−"):
        value = -value
    exponent = _scale(match["scale"]) - max(0, len(fraction) - 1) + int(match["power"] or 0)
    if hedged and not fraction:
        exponent += len(digits) - len(digits.rstrip("0")) if digits.strip("0") else 0
    slack = Decimal(10) ** exponent / 2
    return Figure(
        match[0].strip(), value, slack, bool(match["percent"]), hedged, match.start(), match.end()
    )


def _scale(word: str | None) -> int:
    return _SCALES.get((word or "").lower(), 0)


def values_in(text: str) -> set[Decimal]:
    """All numbers of a text, in every reading: as written, and by its scale word."""
    values: set[Decimal] = set()
    for match in re.finditer(r"\d[\d,'’\u00a0\u202f]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?", text):
        for reading in (
            re.sub(r"[,'’\u00a0\u202f]", "", match[0]),
            *re.split(r"[,'’\s]+", match[0]),
        ):
            try:
                value = Decimal(reading)
            except InvalidOperation:
                continue
            values.add(
                -value if _MINUS.search(text[max(0, match.start() - 2) : match.start()]) else value
            )
    for match in _NUMBER.finditer(text):
        figure = _figure(match, False)
        if figure is not None:
            values.add(figure.value)
    return values
