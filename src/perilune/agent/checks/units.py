"""Units of values: which are the same, which convert into each other, which are another kind."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_TABLE = {
    alias: (dimension, Fraction(factor))
    for dimension, factor, aliases in (
        ("length", "1", "m metre metres meter meters"),
        ("length", "1000", "km kilometre kilometres kilometer kilometers kms"),
        ("length", "0.01", "cm centimetre centimetres centimeter centimeters"),
        ("length", "0.001", "mm millimetre millimetres millimeter millimeters"),
        ("length", "0.3048", "ft foot feet"),
        ("length", "0.0254", "inch inches"),
        ("length", "1609.344", "mi mile miles"),
        ("length", "0.9144", "yd yard yards"),
        ("area", "1000000", "km2 km² sqkm"),
        ("area", "1", "m2 m² sqm"),
        ("area", "10000", "ha hectare hectares"),
        ("area", "2589988.110336", "mi2 sqmi"),
        ("area", "4046.8564224", "acre acres"),
        ("mass", "1", "kg kilogram kilograms"),
        ("mass", "0.001", "g gram grams"),
        ("mass", "1000", "t ton tons tonne tonnes"),
        ("mass", "0.45359237", "lb lbs pound pounds"),
        ("density", "1", "kg/m3 kg/m³"),
        ("density", "1000", "g/cm3 g/cm³ kg/l"),
        ("speed", "1", "m/s"),
        ("speed", "0.2777777777777778", "km/h kmh kph"),
        ("speed", "0.44704", "mph"),
        ("speed", "0.5144444444444444", "knot knots kn"),
        ("time", "1", "s sec second seconds"),
        ("time", "60", "min minute minutes"),
        ("time", "3600", "h hour hours"),
        ("time", "86400", "day days"),
        ("years", "1", "year years yr yrs"),
        ("share", "1", "% percent"),
        ("celsius", "1", "°c c celsius"),
        ("fahrenheit", "1", "°f f fahrenheit"),
        ("kelvin", "1", "k kelvin"),
        (
            "people", "1",
            "people persons inhabitants residents employees workers staff sailors pupils students "
            "teachers crew souls einwohner habitants personas",
        ),
        ("dollars", "1", "dollar dollars usd"),
        ("euros", "1", "euro euros eur"),
        ("crowns", "1", "crown crowns"),
        ("bytes", "1", "b byte bytes"),
        ("bytes", "1000", "kb"), ("bytes", "1000000", "mb"), ("bytes", "1000000000", "gb"),
        ("paths", "1", "path paths"),
    )
    for alias in aliases.split()
}  # fmt: skip
_LONG = (
    (re.compile(r"^(?:square kilomet(?:re|er)s?|sq\.? ?km|km\^2)", re.I), "km2"),
    (re.compile(r"^(?:square miles?|sq\.? ?mi(?:les?)?|mi\^2)", re.I), "mi2"),
    (re.compile(r"^(?:square met(?:re|er)s?|m\^2)", re.I), "m2"),
    (re.compile(r"^(?:kg|kilograms?) ?(?:/|per) ?(?:m\^?3|cubic met(?:re|er)s?)", re.I), "kg/m3"),
    (re.compile(r"^(?:degrees? celsius|degrees? c|° c|deg c)\b", re.I), "°c"),
    (re.compile(r"^(?:degrees? fahrenheit|degrees? f|° f)\b", re.I), "°f"),
    (re.compile(r"^(?:us|u\.s\.) dollars?", re.I), "dollars"),
    (re.compile(r"^per ?cent\b", re.I), "%"),
)


def unit_at(text: str) -> str:
    """The unit that a text begins with, by its known name; "" where it is none that is known."""
    text = text.strip().lstrip("*_`")
    for pattern, name in _LONG:
        if pattern.match(text):
            return name
    match = re.match(
        r"(?:°\s?[CFcf]|%|[^\W\d_]+(?:/[^\W\d_]+)?[23²³]?(?:/[^\W\d_]+[23²³]?)?)", text
    )
    word = match[0].replace(" ", "") if match else ""
    return word.casefold() if word.casefold() in _TABLE else ""


def agree(number: Decimal, said: str, value: Decimal, unit: str, slack: Decimal) -> bool | None:
    """Whether a number in one unit is a value in another; None where the units say nothing.

    `said` and `unit` are units as written, `slack` half of the number's last place.
    """
    one, other = unit_at(said), unit_at(unit)
    if not one or not other:
        return None
    if one in ("°f", "°c") and other in ("°f", "°c") and one != other:
        value = value * 9 / 5 + 32 if one == "°f" else (value - 32) * 5 / 9
        return abs(number - value) <= max(slack, abs(value) / 100)
    dimension, factor = _TABLE[one]
    its, its_factor = _TABLE[other]
    if dimension != its:
        return False
    if factor == its_factor:
        return abs(number - value) <= slack
    exact = value * Decimal(its_factor.numerator) / its_factor.denominator
    exact = exact * factor.denominator / Decimal(factor.numerator)
    return abs(number - exact) <= max(slack, abs(exact) / 50)
