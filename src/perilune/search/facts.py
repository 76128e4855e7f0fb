"""Facts by a few words: "Chad area" -> `Chad.area = 1284000 km2 (2020)`.

A fact is one line. A query names entities or values, and what is asked of them; the rest of its
words are matched against names, labels and aliases of attributes. So a model, however small, need
not know what an attribute is called here: it passes on the words of the question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from perilune.search.almanac.text import edit_distance, may_be_near, tolerance

MOST_LINES = 4
"""Facts shown for one query."""
_LONGEST_NAME = 7
"""Words of the longest name that a query is searched for."""

# fmt: off
STOP_WORDS = frozenset((
    "a", "about", "all", "an", "and", "any", "are", "at", "be", "by", "can", "count", "did", "do",
    "does", "find", "for", "from", "get", "give", "given", "had", "has", "have", "how", "i", "in",
    "is", "it", "its", "kind", "known", "long", "main", "many", "me", "mean", "much", "name",
    "number", "of", "old", "on", "one", "or", "please", "present", "s", "show", "tell", "than",
    "that", "the", "their", "there", "this", "to", "top", "total", "usual", "value", "was", "were",
    "what", "when", "where", "which", "who", "whose", "with", "year", "yearly", "you",
))
# fmt: on
"""Words that say nothing of which attribute is meant."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One attribute of one entity.

    `value` is text, with its unit. `labels` are other names of the attribute, `year` and `source`
    say who gave the value and when ("" where that is not known), `address` is where it stands.
    """

    entity: str
    attribute: str
    value: str
    kind: str = ""
    labels: tuple[str, ...] = ()
    year: str = ""
    source: str = ""
    address: str = ""

    @property
    def line(self) -> str:
        """What is shown: `Tavor.population = 4120 people (1984)`."""
        dated = f" ({self.year})" if self.year else ""
        return f"{self.entity}.{self.attribute} = {self.value}{dated}"

    @property
    def whole(self) -> str:
        """What is kept as evidence: the line and who says so."""
        return f"{self.line}, {self.source}" if self.source else self.line


@dataclass(frozen=True, slots=True)
class Found:
    """What a query found. Without facts, `known` names what could be asked of `entities`.

    `notes`: remarks behind the facts, a line each: whether a value that was asked about is the
    fact's ("Lyon: no"), and what an entity is called in the question ("(Kenya: 肯尼亚)").
    """

    facts: tuple[Fact, ...] = ()
    more: int = 0
    entities: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class FactStore(Protocol):
    """Where `lookup` finds facts."""

    def find(self, query: str, most: int = MOST_LINES) -> Found:
        """At most `most` facts that fit a query, or what could be asked instead."""


class Facts:
    """Facts in memory, found by name, by value and by the words that stand for attributes."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._by_entity: dict[str, list[Fact]] = {}
        self._by_value: dict[str, list[Fact]] = {}
        for fact in facts:
            self._by_entity.setdefault(normalised(fact.entity), []).append(fact)
            self._by_value.setdefault(value_key(fact.value), []).append(fact)

    def of_entity(self, phrase: str) -> Sequence[Fact]:
        """The facts of every entity of this name; phrases come as `normalised` gives them."""
        return self._by_entity.get(phrase, ())

    def with_value(self, phrase: str) -> Sequence[Fact]:
        """The facts whose value is this: a name, a word or a number (without its unit)."""
        return self._by_value.get(phrase, ())

    def find(self, query: str, most: int = MOST_LINES) -> Found:
        """The facts that fit a query best: those of named entities first, then those of a value.

        A query that names an entity and nothing else gives its first facts. One whose other words
        fit no attribute gives none, and says what is known of the entity.
        """
        return _find(self, query, most)


def _find(store: Facts, query: str, most: int) -> Found:
    rest: list[str] = []
    own: dict[Fact, None] = {}
    valued: dict[Fact, None] = {}
    for phrase in _spans(store, query.split("\n")[0]):
        of_entity, with_value = store.of_entity(phrase), store.with_value(phrase)
        if of_entity or with_value:
            own.update(dict.fromkeys(of_entity))
            valued.update(dict.fromkeys(with_value))
        else:
            rest.append(phrase)
    asked = {_stem(word) for word in rest if word not in STOP_WORDS}
    if own and not asked:
        return _shown(list(own), most)
    known = {fact: _words(fact) for fact in own}
    for fact in valued:
        known[fact] = _words(fact) | _kind_words(fact)
    for words in (asked, {_corrected(word, known.values()) for word in asked}):
        scores = {fact: len(words & its) for fact, its in known.items()}
        best = max(scores.values(), default=0)
        if best:
            return _shown([fact for fact, score in scores.items() if score == best], most)
    if valued and not asked:
        return _shown(list(valued), most)
    return Found(
        entities=tuple(dict.fromkeys(fact.entity for fact in own)),
        known=tuple(dict.fromkeys(fact.attribute for fact in own)),
    )


def _corrected(word: str, known: Iterable[frozenset[str]]) -> str:
    """The known word that a misspelt one is nearest to, within a slip or two; else itself."""
    limit = tolerance(word)
    near = {
        each: edit_distance(word, each, limit)
        for words in known
        for each in words
        if may_be_near(word, each, limit)
    }
    best = min(near, key=lambda each: (near[each], each), default=word)
    return best if near.get(best, limit + 1) <= limit else word


def normalised(text: str) -> str:
    """Lower-case words without accents and marks, joined by one space."""
    return " ".join(_split(text))


def value_key(value: str) -> str:
    """The phrase that a value is found by: a number without its unit, else all of it."""
    number = re.match(r"-?\d[\d.]*", value)
    return normalised(number[0] if number else value)


def _shown(facts: list[Fact], most: int) -> Found:
    return Found(tuple(facts[:most]), more=max(0, len(facts) - most))


def _spans(store: Facts, query: str) -> Iterator[str]:
    """The query cut into the longest phrases that the store knows, and single words."""
    words = _split(query)
    start = 0
    while start < len(words):
        for length in range(min(_LONGEST_NAME, len(words) - start), 1, -1):
            phrase = " ".join(words[start : start + length])
            if store.of_entity(phrase) or store.with_value(phrase):
                break
        else:
            length, phrase = 1, words[start]
        yield phrase
        start += length


def _split(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(each for each in plain if not unicodedata.combining(each)).casefold()
    return re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", plain)


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    """Plural and singular alike; no more, for a wrong match is worse than none."""
    for ending, least in (("ies", 5), ("es", 6), ("s", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("ss"):
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word


@lru_cache(maxsize=50_000)
def _label_words(attribute: str, labels: tuple[str, ...]) -> frozenset[str]:
    words = [word for text in (attribute, *labels) for word in _split(text)]
    return frozenset(_stem(word) for word in words if word not in STOP_WORDS)


def _words(fact: Fact) -> frozenset[str]:
    words = _label_words(fact.attribute, fact.labels)
    if fact.source or fact.year:
        words |= {_stem(word) for word in _split(f"{fact.source} {fact.year}")}
    return words


def _kind_words(fact: Fact) -> frozenset[str]:
    return frozenset(_stem(word) for word in _split(fact.kind))
