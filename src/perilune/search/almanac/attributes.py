"""The attributes of the almanac, and the words by which questions ask for them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perilune.search.almanac.text import edit_distance, key, may_be_near, tolerance

_LIST = Path(__file__).with_name("attributes.toml")


@dataclass(frozen=True, slots=True)
class Attribute:
    """`aliases` are keys, its own name first."""

    name: str
    unit: str
    aliases: tuple[str, ...]


def read_attributes() -> list[Attribute]:
    """All of them, in the order of an article."""
    entries = tomllib.loads(_LIST.read_text("utf-8"))
    return [
        Attribute(
            name,
            entry.get("unit", ""),
            tuple(dict.fromkeys(key(alias) for alias in (name, *entry["aliases"]))),
        )
        for name, entry in entries.items()
    ]


class Aliases:
    """Words for attributes -> ids of the attributes that they may mean, the likeliest first."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        """`ids`: name of an attribute -> its id. Attributes without an id are left out."""
        self._ids: dict[str, list[int]] = {}
        for attribute in read_attributes():
            for alias in attribute.aliases:
                if attribute.name in ids:
                    self._ids.setdefault(alias, []).append(ids[attribute.name])
        self._by_shape: dict[tuple[int, int], list[str]] = {}
        for alias in self._ids:
            self._by_shape.setdefault(_shape(alias), []).append(alias)

    def exact(self, text: str) -> list[int]:
        """What a key, or its singular, means; nothing for most."""
        return self._ids.get(text) or self._ids.get(text.removesuffix("s")) or []

    def nearest(self, text: str) -> list[int]:
        """What the alias means that a misspelt key is nearest to; nothing when none is near."""
        limit = tolerance(text) if len(text) > 4 else 0  # "life" is not "live"
        best, nearest = limit + 1, ""
        words, letters = _shape(text)
        for length in range(letters - limit, letters + limit + 1):
            for alias in self._by_shape.get((words, length), ()) if limit else ():
                if may_be_near(text, alias, limit):
                    distance = edit_distance(text, alias, limit)
                    # The first letter is seldom wrong: a president is not a resident.
                    if distance < best and (distance < 2 or text[0] == alias[0]):
                        best, nearest = distance, alias
        return self._ids[nearest] if nearest else []


def _shape(text: str) -> tuple[int, int]:
    """Number of words, number of characters."""
    return text.count(" ") + 1, len(text)
