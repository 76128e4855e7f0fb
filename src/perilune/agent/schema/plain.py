"""A value that somebody else gave -> plain JSON: bounded, without shared or circular parts, with
text that is valid Unicode. Nothing here recurses, so no depth can end the process."""

from __future__ import annotations

import math
from typing import Any

from perilune.text import valid_text

MAX_VALUES = 50_000
MAX_CHARACTERS = 1_000_000
MAX_BITS = 1_100  # of a whole number; a double has 1,024


class NotPlain(ValueError):
    """It is not JSON that we take; the message says why."""


def plain_json(
    value: Any,
    *,
    max_depth: int,
    max_values: int = MAX_VALUES,
    max_characters: int = MAX_CHARACTERS,
) -> Any:
    """A copy of `value` in which every container is an object of its own. Raises `NotPlain`.

    Tuples become lists. Half characters (lone surrogates) become U+FFFD.
    """
    holder: list[Any] = [None]
    work: list[tuple[Any, Any, Any, int]] = [(value, holder, 0, 0)]
    values = characters = 0
    made: Any
    while work:
        item, parent, key, depth = work.pop()
        values += 1
        if values > max_values:
            raise NotPlain(f"it holds more than {max_values} values")
        if item is None or isinstance(item, bool):
            made = item
        elif isinstance(item, str):
            characters += len(item)
            made = valid_text(item)
        elif isinstance(item, int):
            if item.bit_length() > MAX_BITS:
                raise NotPlain("it holds a number beyond all measure")
            made = item
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise NotPlain("it holds a number that JSON has not (infinite, or none)")
            made = item
        elif isinstance(item, dict | list | tuple):
            if depth >= max_depth:
                raise NotPlain(f"it is nested deeper than {max_depth}")
            if values + len(item) > max_values:
                raise NotPlain(f"it holds more than {max_values} values")
            if isinstance(item, dict):
                made = {}
                for name, child in item.items():
                    if not isinstance(name, str):
                        raise NotPlain("it has a key that is not text")
                    characters += len(name)
                    text = valid_text(name)
                    made[text] = None  # keeps the order; the value comes later
                    work.append((child, made, text, depth + 1))
            else:
                made = [None] * len(item)
                work += [(child, made, place, depth + 1) for place, child in enumerate(item)]
        else:
            raise NotPlain(f"a {type(item).__name__} cannot be written as JSON")
        if characters > max_characters:
            raise NotPlain(f"it has more than {max_characters} characters")
        parent[key] = made
    return holder[0]
