"""The almanac as `lookup` shows it: the facts that a query asks for, or what could be asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from perilune.search.almanac import Almanac, open_almanac
from perilune.search.almanac import Fact as Entry
from perilune.search.almanac.text import key
from perilune.search.facts import MOST_LINES, Fact, Found

_LONGEST = 60
"""Characters of a value; longer ones are cut at a comma, and marked."""
_ENOUGH = 12
"""Facts that are looked through for those that were asked for."""


class AlmanacFacts:
    """What `lookup` asks, of the almanac."""

    def __init__(self, almanac: Almanac) -> None:
        self._almanac = almanac

    def find(self, query: str, most: int = MOST_LINES) -> Found:
        """The facts of the named entities that the query's words ask for.

        The almanac's own search falls back on the first facts of an entity where no attribute was
        understood. A small model would take the first for the answer, so here that is nothing
        found, and what is known, unless the query is a name and nothing else.
        """
        answered = self._almanac.answer(query)
        if answered.facts and not _is_name(query, answered.facts):
            return Found(tuple(map(_fact, answered.facts)), answered.more, notes=answered.notes)
        return self._by_words(query, most)

    def _by_words(self, query: str, most: int) -> Found:
        """What the almanac's search finds for words that are in no table."""
        entries = self._almanac.facts(query, _ENOUGH)
        asked = self._almanac.asked_for(query)
        fitting = [each for each in entries if each.attribute in asked]
        if not fitting and any(key(query) == key(each.entity) for each in entries):
            fitting = entries
        if fitting:
            shown = tuple(map(_fact, fitting[:most]))
            return Found(shown, more=0 if fitting is entries else len(fitting) - len(shown))
        named = [each for each in entries if f" {key(each.entity)} " in f" {key(query)} "]
        return Found(
            entities=tuple(dict.fromkeys(each.entity for each in named)),
            known=tuple(dict.fromkeys(each.attribute for each in named)),
        )


def _is_name(query: str, facts: Sequence[Entry]) -> bool:
    return any(key(query) == key(each.entity) for each in facts)


def _fact(entry: Entry) -> Fact:
    unit = f" {entry.unit}" if entry.unit else ""
    value = f"{entry.value}{unit}"
    if len(value) > _LONGEST:
        value = value[:_LONGEST].rpartition(", ")[0] or value[:_LONGEST].rpartition(" ")[0]
        value += ", ..."
    return Fact(
        entry.entity,
        entry.attribute,
        value,
        entry.kind,
        year=str(entry.year),
        source=entry.source,
        address=entry.address,
    )


@lru_cache(maxsize=1)
def almanac_facts() -> AlmanacFacts:
    """The facts of the package's almanac."""
    return AlmanacFacts(open_almanac())
