"""The parts of a reading that an answer is put together from: who, what, in which sentence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from perilune.search.almanac.reading import Reading

Value = int | float | str

WORD_ATTRIBUTES: Final = frozenset(
    ("part of speech", "definition", "second definition", "kind of", "synonyms", "antonym",
     "example")
)  # fmt: skip
WEAK: Final = frozenset(
    ("population", "area", "location", "country", "city", "GDP", "airports", "region",
     "agricultural products", "category", "symbol", "discovery country", "elevation")
)  # fmt: skip
"""Attributes whose words are often said beside what is asked for: people, land, economy, where."""
_TABLE = re.compile(
    r"\b(?:tab(?:le|ular|elle|leau|la|ulate)\w*|cuadro|columns?|cols?|spalten|colonnes)\b|表|一栏"
)
_CELSIUS = re.compile(
    r"celsius|centigrad|zentigrad|centígrad|°\s?c\b|℃|摄氏|\bcelcius|[多几好]少?度"
)


@dataclass(slots=True)
class Subject:
    """An entity that is asked about."""

    article: int
    kind: str
    entity: str
    start: int
    sentence: int
    written: str


LOCAL_KIND: Final = {
    "languages": "language", "currency": "currency", "continent": "continent", "capital": "city",
    "country": "country", "neighbours": "country",
}  # fmt: skip
"""Of which kind the names in other languages are that an attribute's values have."""


def settled(found: list[str], kind: str, groups: list[tuple[str, ...]], text: str) -> list[str]:
    """Kelvin or degrees Celsius, the mountain or its height."""
    names = []
    for name in found:
        if name in ("melting point", "boiling point") and _CELSIUS.search(text.casefold()):
            name = f"{name} in Celsius"
        if name == "highest point" and kind == "country":
            heights = any("elevation" in group for group in groups)
            if heights or _HEIGHT_ASKED.search(text):
                name = "highest elevation"
        names.append(name)
    if "highest elevation" in names and "highest point" in names:
        names.remove("highest point")
    return list(dict.fromkeys(names))


_HEIGHT_ASKED: Final = re.compile(
    r"how (?:high|tall)|feet|\bft\b|pies|fu(?:ß|ss)|pieds|wie hoch|cu[aá]nto mide|hauteur|height|"
    r"quelle altitude|elevation|qué altura|altura|höhe|in met|en m[eè]t|英尺|多高|好高|海拔|高度|"
    r"几米|[多好]少?米",
    re.IGNORECASE,
)


def asks_for_words(
    reading: Reading, subjects: list[Subject], kinds_of: dict[str, frozenset[str]]
) -> bool:
    groups = reading.attributes
    asked = [group for group in groups if set(group) & WORD_ATTRIBUTES]
    if not asked:
        return False
    if "word" in reading.kinds or not subjects:
        return "word" in reading.kinds or len(asked) == len(groups) or not reading.order
    others = [g for g in groups if any(s.kind in kinds_of.get(n, ()) for s in subjects for n in g)]
    return not others and not any(s.kind in ("country", "element") for s in subjects)


def word_candidates(reading: Reading, text: str) -> list[str]:
    """What may be the word that is asked about, the likeliest first."""
    quoted = re.findall(r"[\"“„«‘'《]\s?([^\"”“»’'》]{2,40}?)\s?[\"”“»’'》]", text)
    starts = [each.start for each in reading.said if set(each.meaning.attributes) & WORD_ATTRIBUTES]
    ends = [each.end for each in reading.said if set(each.meaning.attributes) & WORD_ATTRIBUTES]
    words = [(i, t) for i, t in enumerate(reading.tokens) if t.text.isascii() and len(t.text) > 1]

    def distance(place: int) -> int:
        return min(
            (min(abs(place - s), abs(place - e)) for s, e in zip(starts, ends, strict=True)),
            default=99,
        )

    def rank(item: tuple[int, object]) -> tuple[bool, bool, int]:
        place = item[0]
        taken = place in reading.taken and not any(n.start <= place < n.end for n in reading.named)
        stop = reading.tokens[place].text in reading.language.stop
        return taken or stop, stop, distance(place)

    ranked = [token.text for _, token in sorted(words, key=rank)]
    return [*quoted, *ranked]


def longest_first(reading: Reading, names: Iterable[str]) -> list[str]:
    length: dict[str, int] = {}
    for each in reading.said:
        for name in each.meaning.attributes:
            length[name] = max(length.get(name, 0), len(reading.text(each.start, each.end)))
    return sorted(dict.fromkeys(names), key=lambda name: -length.get(name, 0))


def in_one_sentence(
    reading: Reading, subjects: list[Subject]
) -> tuple[list[tuple[str, ...]], list[Subject]]:
    """Where one sentence has both what is asked and of whom, the others only tell a story."""
    asked: dict[int, list[tuple[str, ...]]] = {}
    for group, place in zip(reading.attributes, reading.places, strict=True):
        asked.setdefault(reading.tokens[place].sentence, []).append(group)
    whole = [
        number for number in asked if any(each.sentence == number for each in subjects)
    ]  # fmt: skip
    latest = max(asked, default=-1)
    before = [each for each in subjects if each.sentence < latest]
    if latest not in whole and before and not reading.order and not reading.much:
        # "She is from Chad. What do they speak there?"
        number = max(each.sentence for each in before)
        if len({each.sentence for each in subjects}) > 1 or len(asked) > 1:
            return asked[latest], [each for each in subjects if each.sentence == number]
    if not whole or latest not in whole:
        return reading.attributes, subjects
    here = [each for each in subjects if each.sentence == latest]
    if len(asked) == 1 and len(here) == len(subjects):
        return reading.attributes, subjects
    return asked[latest], here


def main_kind(
    subjects: list[Subject], groups: list[tuple[str, ...]], reading: Reading,
    kinds_of: dict[str, frozenset[str]],
) -> str:  # fmt: skip
    """The kind of the entities that are asked about: that have what is asked for."""
    names = [name for group in (groups or reading.implied) for name in group]
    counts: dict[str, float] = {}
    for each in subjects:
        fits = any(each.kind in kinds_of.get(name, ()) for name in names)
        first = any(each.kind in kinds_of.get(name, ()) for name in names[:1])
        counts[each.kind] = counts.get(each.kind, 0) + 1 + 4 * fits + 2 * first
    return max(counts, key=lambda kind: counts[kind])


def is_list(reading: Reading, text: str) -> bool:
    """Whether what is asked for is a list: "capital and population", "GDP, inflation"."""
    said = [each for each in reading.said if each.meaning.attributes]
    if _TABLE.search(text.casefold()) and len({each.meaning.attributes[0] for each in said}) > 1:
        return True
    joins = {each.start for each in reading.said if each.meaning.joins}
    for before, after in itertools.pairwise(said):
        if before.meaning.attributes[:1] == after.meaning.attributes[:1]:
            continue
        between = range(before.end, after.start)
        if len(between) > 4:
            continue
        comma = any(reading.tokens[p].comma for p in range(before.end - 1, after.start))
        if comma or any(place in joins for place in between):
            return True
    return False


def joined_up(reading: Reading, own: list[Subject]) -> bool:
    """Whether names stand as a list, or as two that are set side by side."""
    joins = {each.start for each in reading.said if each.meaning.joins}
    for before, after in itertools.pairwise(own):
        places = range(before.start, after.start)
        comma = any(reading.tokens[p].comma for p in places)
        if comma or any(p in joins for p in places) or after.start - before.start < 4:
            return True
    return reading.much or bool(reading.order)


def local_values(reading: Reading) -> list[tuple[str, str, str]]:
    """Kind, English name and wording of what the language's own names say in the question."""
    found = []
    for start, end in reading.spans(8):
        span = reading.text(start, end)
        for kind, name in reading.language.names.get(span, ()):
            found.append((kind, name, span))
    return found


def plainly(
    span: str, reading: Reading, start: int, end: int, text: str, known: dict[str, list[int]],
    value_of: Callable[[int, str], Value | None], attribute: str,
) -> bool:  # fmt: skip
    """Whether a run of words is really meant as a value: short ones stand as they are stored."""
    if span.isdecimal() and end - start == 1:
        return True
    if len(span) > 3 and any(
        reading.free(place) or place in reading.taken for place in range(start, end)
    ):
        return not all(reading.tokens[p].text in reading.language.stop for p in range(start, end))
    stored = str(value_of(known[span][0], attribute))
    return bool(re.search(rf"(?<![A-Za-z0-9.]){re.escape(stored)}(?![A-Za-z0-9])", text))


def number_in(text: str) -> float | None:
    try:
        return float(text) if re.fullmatch(r"\d+(?:\.\d+)?", text) else None
    except ValueError:  # pragma: no cover - the pattern has only numbers
        return None
