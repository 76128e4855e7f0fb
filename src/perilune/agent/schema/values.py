"""One value against the simple keywords of a schema, and how values and places are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from perilune.agent.schema.read import Node

_LONGEST_PLACE = 160
_SHOWN = 60  # characters of a value


def check_number(node: Node, value: float) -> Iterator[Any]:
    bounds: tuple[tuple[float | None, Callable[[float], bool], str], ...] = (
        (node.minimum, lambda bound: value < bound, "below the minimum of"),
        (node.maximum, lambda bound: value > bound, "above the maximum of"),
        (node.exclusive_minimum, lambda bound: value <= bound, "not above"),
        (node.exclusive_maximum, lambda bound: value >= bound, "not below"),
    )
    for bound, broken, words in bounds:
        if bound is not None and broken(bound):
            yield f"{show(value)} is {words} {show(bound)}", None, None, None
    if node.multiple_of is not None and _exact(value) % _exact(node.multiple_of) != 0:
        yield (
            f"{show(value)} is not a multiple of {show(node.multiple_of)}",
            None,
            None,
            None,
        )


def _exact(value: float) -> Fraction:
    """The number as it was written: 0.3 is a multiple of 0.1."""
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(value)))


def check_count(node: Node, what: str, count: int, subject: str, unit: str) -> Iterator[Any]:
    least, most = node.counts.get(f"min{what}"), node.counts.get(f"max{what}")
    if least is not None and count < least:
        if what == "Length" or what == "Items":
            few = "empty" if count == 0 else "too short"
        else:
            few = "too small"
        yield f"{subject} {few}: {count} {unit}, at least {least}", None, None, None
    if most is not None and count > most:
        yield f"{subject} too long: {count} {unit}, at most {most}", None, None, None


def is_a(value: Any, kind: str) -> bool:
    if kind == "object":
        return isinstance(value, dict)
    if kind == "array":
        return isinstance(value, list)
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, int | float)


def show(value: Any) -> str:
    """A value in few characters, without writing out what is large."""
    if isinstance(value, dict | list):
        if not value:
            return repr(value)
        unit = "properties" if isinstance(value, dict) else "items"
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)} {unit}"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}..."
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "a huge number"
    return repr(value)


def joined(place: str, step: str | int | None) -> str:
    if step is None:
        return place
    if isinstance(step, int):
        text = f"[{step}]"
    elif step.isidentifier() and len(step) <= 80:
        text = f".{step}"
    else:
        text = f"[{step[:80]!r}]"
    whole = place + text
    return whole if len(whole) <= _LONGEST_PLACE else f"$...{whole[-_LONGEST_PLACE:]}"
