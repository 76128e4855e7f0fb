"""What a reader of a source gives to the writer: articles, each with its facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

Value = int | float | str


@dataclass(frozen=True)
class Source:
    """Where facts come from. `year` is that of facts which state none."""

    name: str
    year: int
    package: str
    licence: str


@dataclass(frozen=True)
class Fact:
    value: Value
    source: Source
    year: int | None  # None: that of the source


@dataclass
class Article:
    """`weight` (0 to 100) says which of two entities of the same name is meant more often.

    `aliases` are full names of it; `other_names` are names that mean something else first (a
    foreign name of a city); `codes` count only when written as codes ("FRA", "Fe").
    """

    kind: str
    name: str
    weight: int
    aliases: set[str] = field(default_factory=set)
    other_names: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    summary: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)

    def add(
        self, attribute: str, value: Value | None, source: Source, year: int | None = None
    ) -> None:
        """A fact; None and empty text are not facts. The first source of an attribute wins."""
        if value is None or value == "" or attribute in self.facts:
            return
        self.facts[attribute] = Fact(plain(value), source, None if year == source.year else year)


def plain(value: Value) -> Value:
    """Six significant digits, and a whole number as an integer."""
    if isinstance(value, float):
        value = float(f"{value:.6g}") if abs(value) < 1e6 else round(value)
        return int(value) if value == int(value) else value
    if isinstance(value, str):
        return " ".join(value.split())
    return value


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed. Run: pip install -e '.[almanac]'")
    return Path(next(iter(spec.submodule_search_locations)))
