"""The words of questions, a table a language: attributes, kinds, order, numbers, names of entities.

The tables are data (`languages/*.toml`, and `*.names.tsv` for what an entity is called there). A
phrase may mean several things at once: "größte" is a direction, and an area if nothing else is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from perilune.search.almanac.attributes import read_attributes
from perilune.search.almanac.text import edit_distance, key, may_be_near, tolerance

LANGUAGES: Final = ("en", "de", "fr", "es", "zh")
_FOLDER = Path(__file__).with_name("languages")
HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_STEM = 2
"""Letters by which phrases with a star are found."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a phrase stands for. Empty where it says nothing of that sort.

    `attributes`: names of attributes it may mean; `implied`: those it means where no other is named
    and the kind of entity has them, the likeliest first; `order`: "most" or "least"; `much`: it
    asks for an amount (how many times, together), not for a choice.
    """

    attributes: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()
    kind: str = ""
    order: str = ""
    much: bool = False
    joins: bool = False

    def merged(self, other: Meaning) -> Meaning:
        return Meaning(
            tuple(dict.fromkeys(self.attributes + other.attributes)),
            self.implied or other.implied,
            self.kind or other.kind,
            self.order or other.order,
            self.much or other.much,
            self.joins or other.joins,
        )


@dataclass(slots=True)
class Language:
    """The words of one language. Phrases are keys, as `phrase_key` makes them."""

    code: str
    stop: frozenset[str] = frozenset()
    numbers: dict[str, int] = field(default_factory=dict)
    exact: dict[str, Meaning] = field(default_factory=dict)
    stems: dict[str, list[tuple[str, int, Meaning]]] = field(default_factory=dict)
    names: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    local: dict[tuple[str, str], str] = field(default_factory=dict)
    _by_shape: dict[int, list[str]] = field(default_factory=dict)

    def meaning(self, phrase: str, words: int) -> Meaning | None:
        """What a phrase of so many words means; its singular and its stem count, too."""
        found = self.exact.get(phrase)
        if found is None and phrase.endswith("s"):
            found = self.exact.get(phrase[:-1])
        if found is None:
            best = ""
            for stem, count, meaning in self.stems.get(phrase[:_STEM], ()):
                if count == words and len(stem) > len(best) and phrase.startswith(stem):
                    best, found = stem, meaning
        return found

    def nearest(self, word: str) -> Meaning | None:
        """What the word means that a misspelt one is nearest to, within a slip or two."""
        limit = tolerance(word) if len(word) > 4 else 0
        best, nearest = limit + 1, ""
        for length in range(len(word) - limit, len(word) + limit + 1):
            for each in self._by_shape.get(length, ()) if limit else ():
                if each[0] == word[0] and may_be_near(word, each, limit):
                    distance = edit_distance(word, each, limit)
                    if distance < best:
                        best, nearest = distance, each
        return self.exact[nearest] if nearest else None

    def add(self, phrase: str, meaning: Meaning) -> None:
        stem, star, _ = phrase.partition("*")
        for form in dict.fromkeys((stem, stem.casefold().translate(_UMLAUTS))):
            text = phrase_key(form)
            if not text:
                continue
            if star:
                self._add_stem(text, meaning)
            self.exact[text] = self.exact[text].merged(meaning) if text in self.exact else meaning

    def _add_stem(self, text: str, meaning: Meaning) -> None:
        places = self.stems.setdefault(text[:_STEM], [])
        for at, (stem, count, before) in enumerate(places):
            if stem == text:
                places[at] = (stem, count, before.merged(meaning))
                return
        places.append((text, words_of(text), meaning))

    def finish(self) -> None:
        """Call once all phrases are there."""
        for text, meaning in self.exact.items():
            if meaning.attributes and " " not in text and len(text) > 4:
                self._by_shape.setdefault(len(text), []).append(text)


def phrase_key(text: str) -> str:
    """A key in which Chinese characters stand without spaces: how phrases are compared."""
    return re.sub(rf"(?<={HAN.pattern}) (?={HAN.pattern})", "", key(spaced(text)))


def spaced(text: str) -> str:
    """Chinese characters as words of their own."""
    return HAN.sub(lambda match: f" {match[0]} ", text)


def words_of(phrase: str) -> int:
    """How many words a key has; a Chinese character is one."""
    return len(spaced(phrase).split())


@cache
def language(code: str) -> Language:
    """The table of a language: one of `LANGUAGES`."""
    table = tomllib.loads((_FOLDER / f"{code}.toml").read_text("utf-8"))
    made = Language(code, frozenset(map(phrase_key, table["stop"].split())))
    made.numbers = {phrase_key(word): number for word, number in table["numbers"].items()}
    if code == "en":
        for attribute in read_attributes():
            for alias in attribute.aliases:
                made.add(alias, Meaning(attributes=(attribute.name,)))
    _read_table(made, table)
    _read_names(made)
    made.finish()
    return made


def _read_table(made: Language, table: Mapping[str, Any]) -> None:
    for name, phrases in table["attributes"].items():
        for phrase in (*_listed(phrases), *(() if made.code == "zh" else (name,))):
            made.add(phrase, Meaning(attributes=(name,)))
    for kind, phrases in table["kinds"].items():
        for phrase in _listed(phrases):
            made.add(phrase, Meaning(kind=kind))
    for order, phrases in table["order"].items():
        for phrase in _listed(phrases):
            made.add(phrase, Meaning(order=order))
    for names, phrases in table["implied"].items():
        for phrase in _listed(phrases):
            made.add(phrase, Meaning(implied=tuple(_listed(names))))
    for phrase in _listed(table["much"]):
        made.add(phrase, Meaning(much=True))
    for phrase in (*_listed(table["and"]), *_listed(table["or"])):
        made.add(phrase, Meaning(joins=True))


def _read_names(made: Language) -> None:
    path = _FOLDER / f"{made.code}.names.tsv"
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        kind, name, local = line.split("\t")
        listed = local.split(";")
        made.local[kind, name] = listed[0]
        for each in listed:
            for form in dict.fromkeys((each, each.casefold().translate(_UMLAUTS))):
                made.names.setdefault(phrase_key(form), []).append((kind, name))


def _listed(text: str) -> list[str]:
    return [each.strip() for each in re.split(r",(?=\s)", text) if each.strip()]


def tell_language(words: Iterable[str], text: str) -> str:
    """The language that most of the words are of; English where none is ahead."""
    if len(HAN.findall(text)) > 1:
        return "zh"
    listed = list(words)
    votes = {code: sum(_vote(language(code), word) for word in listed) for code in LANGUAGES[:-1]}
    return max(votes, key=lambda code: votes[code])  # the first of equals: English


def _vote(of: Language, word: str) -> float:
    if word in of.stop:
        return 1.0
    return 1.0 * (of.meaning(word, 1) is not None) + 0.7 * (word in of.names)
