"""The attributes of the almanac, and the words by which questions ask for them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from perilune.agent.tools.search.almanac.text import key

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
