"""Entities in the order of an attribute: "the five largest countries", "cities of Kenya"."""

from __future__ import annotations

from typing import Final

from perilune.search.almanac.reading import Rows
from perilune.search.almanac.tables import KINDS

NOT_RANKED: Final = ("World", "European Union", "Antarctica")
_NUMBERS = (
    "select articles.id, stored.value from stored join articles on articles.id = stored.article "
    "join attributes on attributes.id = stored.attribute where attributes.name = ? and "
    "articles.kind = ? and typeof(stored.value) != 'text' "
    "order by articles.weight desc, articles.id"
)
_PLACES = (
    "select articles.id, stored.value from stored join articles on articles.id = stored.article "
    "join attributes on attributes.id = stored.attribute where attributes.name = ? and "
    "articles.kind = ?"
)
_NAMES = "select id, name from articles where kind = ?"


class Rankings:
    """Orders of the almanac's entities, each read once. `rows` runs a statement."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._numbers: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self._places: dict[tuple[str, str], dict[int, str]] = {}
        self._states: frozenset[int] | None = None

    def numeric(self, attribute: str, kind: str) -> bool:
        """Whether any entity of the kind has a number there."""
        return bool(self._of(attribute, kind))

    def ordered(
        self, attribute: str, kind: str, *, least: bool, count: int, country: str = "",
        continent: str = "",
    ) -> list[int]:  # fmt: skip
        """Articles, at most `count`. Of countries the independent ones: the almanac also has
        territories. `country` is where cities and airports are, `continent` where countries are."""
        found = self._of(attribute, kind)
        if kind == "country":
            states = self._independent()
            found = [each for each in found if each[0] in states]
        for name, place in (("country", country), ("continent", continent)):
            if place and (name == "continent") == (kind == "country"):
                known = self._in(name, kind)
                found = [each for each in found if known.get(each[0]) == place]
        found = sorted(found, key=lambda each: each[1], reverse=not least)
        return [article for article, _ in found[:count]]

    def _of(self, attribute: str, kind: str) -> list[tuple[int, float]]:
        if (attribute, kind) not in self._numbers:
            rows = self._rows(_NUMBERS, attribute, KINDS.index(kind))
            self._numbers[attribute, kind] = [(article, value) for article, value in rows]
        return self._numbers[attribute, kind]

    def _in(self, name: str, kind: str) -> dict[int, str]:
        if (name, kind) not in self._places:
            self._places[name, kind] = dict(self._rows(_PLACES, name, KINDS.index(kind)))
        return self._places[name, kind]

    def _independent(self) -> frozenset[int]:
        if self._states is None:
            dated = self._in("independence", "country")
            names: dict[int, str] = dict(self._rows(_NAMES, KINDS.index("country")))
            self._states = frozenset(
                article
                for article, name in names.items()
                if name == "Taiwan"
                or (not dated.get(article, "none ").startswith("none ") and name not in NOT_RANKED)
            )
        return self._states
