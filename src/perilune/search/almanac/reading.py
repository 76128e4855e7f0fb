"""A question read by the tables of its language: what it asks of which entities.

Words are matched against the tables longest first, then names of entities (the almanac's own, and
those of the language). Nothing is parsed; a reading is what the answer is built from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from perilune.search.almanac.language import (
    HAN,
    LANGUAGES,
    Language,
    Meaning,
    language,
    spaced,
    tell_language,
)
from perilune.search.almanac.tables import KINDS, How
from perilune.search.almanac.text import key

Rows = Callable[..., list[tuple[Any, ...]]]

MOST_WORDS: Final = 120
LONGEST_TEXT: Final = 2_000  # characters that are read
LONGEST_PHRASE: Final = 8
LONGEST_NAME: Final = 8
_CHUNK: Final = 400  # names that are looked up at once
_ELIDED = re.compile(r"^(?:l|d|qu|n|s|j|c|m|t|jusqu|lorsqu)['’ʼ](?=\w)", re.IGNORECASE)
_PARTS = re.compile(r"\S+")
_SENTENCE = re.compile(r"[.!?…]+(?=\s|$|[\u3400-\u9fff])|[。！？]")
WELL_KNOWN: Final = 45
"""Weight from which a city or airport is taken for what is meant by a word of its name."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word: its key, how it was written, whether it began with an article that is joined to it
    ("l'Allemagne", whose `bare` is "allemagne"), and the sentence it stands in."""

    text: str
    written: str
    bare: str
    sentence: int
    comma: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """A phrase of the table in the question: words `start` to `end`, exclusive."""

    start: int
    end: int
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Named:
    """An entity that words of the question name. `written`: as it stands there."""

    start: int
    end: int
    article: int
    kind: str
    entity: str
    written: str
    score: float
    coded: bool = False


@dataclass(slots=True)
class Reading:
    """What a question asks. `count`: how many rows of a ranking, 0 where it does not say."""

    language: Language
    tokens: list[Token]
    said: list[Said] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)
    attributes: list[tuple[str, ...]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    implied: list[tuple[str, ...]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    order: str = ""
    much: bool = False
    count: int = 0
    continent: str = ""
    taken: set[int] = field(default_factory=set)

    def text(self, start: int, end: int) -> str:
        return joined(token.text for token in self.tokens[start:end])

    def spans(self, longest: int) -> Iterator[tuple[int, int]]:
        """Runs of words, the longest first."""
        count = len(self.tokens)
        for length in range(min(longest, count), 0, -1):
            for start in range(count - length + 1):
                yield start, start + length

    def free(self, place: int) -> bool:
        """Whether a word may belong to a name: no phrase has it, and it says something."""
        return place not in self.taken and self.tokens[place].text not in self.language.stop


def joined(words: Iterable[str]) -> str:
    return re.sub(rf"(?<={HAN.pattern}) (?={HAN.pattern})", "", " ".join(words))


def tokens_of(text: str) -> list[Token]:
    """The words of a text. Any text will do; at most `MOST_WORDS`."""
    made: list[Token] = []
    for number, part in enumerate(_SENTENCE.split(text[:LONGEST_TEXT])):
        for match in _PARTS.finditer(spaced(part)):
            elided = _ELIDED.match(match[0].lstrip("«\"'(¿¡"))
            comma = match[0].rstrip("»\"')").endswith((",", "、", "，", ":", "：", "|", "/", "+"))
            pieces = key(match[0]).split()
            written = match[0].strip(".,;:!?()[]\"'«»„“”‘’，、：（）¿¡《》")
            for place, word in enumerate(pieces):
                bare = ""
                if elided and not place:
                    bare = key(match[0].lstrip("«\"'(¿¡")[elided.end() :]).split(" ")[0]
                last = place == len(pieces) - 1
                made.append(Token(word, written, bare, number, comma and last))
    return made[:MOST_WORDS]


def read(text: str, rows: Rows, kinds_of: dict[str, frozenset[str]]) -> Reading:
    """`kinds_of`: which kinds of entities have an attribute."""
    tokens = tokens_of(text)
    code = tell_language([each.bare or each.text for each in tokens], text)
    reading = Reading(language(code), tokens)
    _say(reading, list(reading.spans(LONGEST_PHRASE)))
    candidates = _candidates(reading, rows)
    _name(reading, candidates, kinds_of)
    _correct(reading)
    _gather(reading, text)
    return reading


def _say(reading: Reading, spans: list[tuple[int, int]]) -> None:
    """Phrases of the table, longest first; where one stands no other is sought."""
    table = reading.language
    for start, end in spans:
        if not reading.taken.isdisjoint(range(start, end)):
            continue
        text = reading.text(start, end)
        meaning = table.meaning(text, end - start)
        if meaning is None and reading.tokens[start].bare:
            rest = (token.text for token in reading.tokens[start + 1 : end])
            meaning = table.meaning(joined((reading.tokens[start].bare, *rest)), end - start)
        if meaning is not None and end - start == 1 and text in table.stop:
            meaning = _only_grammar(meaning)
        if meaning is not None:
            reading.said.append(Said(start, end, meaning))
            reading.taken.update(range(start, end))


def _only_grammar(meaning: Meaning) -> Meaning | None:
    """Of a word that mostly says nothing: directions and the like, no attribute."""
    if meaning.order or meaning.much or meaning.kind or meaning.joins:
        return replace(meaning, attributes=(), implied=())
    return None


def _candidates(reading: Reading, rows: Rows) -> list[Named]:
    """Every entity that a run of words names, by the almanac or by the language."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for start, end in reading.spans(LONGEST_NAME):
        for text in _forms(reading, start, end):
            spans.setdefault(text, []).append((start, end))
    made: list[Named] = []
    for text, article, entity, number, weight, how in _almanac_names(list(spans), rows):
        kind = KINDS[number]
        for start, end in spans[text]:
            written = _written(reading, start, end)
            if how == How.CODE and not _is_code(reading, start, end, kind, written):
                continue
            score = float(weight) - 12 * (how == How.OTHER) - 3 * (how == How.ALIAS)
            if how == How.OTHER and written.islower() and len(reading.tokens) > 3:
                continue  # "wir landen" is no London
            coded = how == How.CODE
            made.append(Named(start, end, article, kind, entity, written, score, coded))
    return made + _local_names(reading, spans, rows)


def _local_names(
    reading: Reading, spans: dict[str, list[tuple[int, int]]], rows: Rows
) -> list[Named]:
    """Names in the language of the question; in another one where it has none."""
    own = reading.language
    others = [language(code) for code in LANGUAGES[1:] if code != own.code]
    known: dict[str, list[tuple[str, str]]] = {}
    for text in spans:
        found = own.names.get(text)
        if found is None and len(text) > 3:
            found = next((each.names[text] for each in others if text in each.names), None)
        if found:
            known[text] = [each for each in found if each[0] in KINDS]
    ids = _ids({pair for pairs in known.values() for pair in pairs}, rows)
    made: list[Named] = []
    for text, pairs in known.items():
        for kind, name in pairs:
            if (kind, name) not in ids:
                continue
            score = 60.0 if kind == "city" else 100.0
            for start, end in spans[text]:
                written = _written(reading, start, end)
                made.append(Named(start, end, ids[kind, name], kind, name, written, score))
    return made


def _forms(reading: Reading, start: int, end: int) -> set[str]:
    text = reading.text(start, end)
    made = {text}
    first, rest = reading.tokens[start], [t.text for t in reading.tokens[start + 1 : end]]
    if first.bare:
        made.add(joined((first.bare, *rest)))
    if len(text) > 4 and text.endswith("s") and reading.language.code in ("en", "de"):
        made.add(text[:-1])  # "denmarks capital", "Dänemarks Hauptstadt"
    return made


def _almanac_names(texts: list[str], rows: Rows) -> list[tuple[str, int, str, int, int, int]]:
    """Key, article, name, kind, weight and how the key names it."""
    found: list[tuple[str, int, str, int, int, int]] = []
    for at in range(0, len(texts), _CHUNK):
        part = texts[at : at + _CHUNK]
        marks = ", ".join("?" * len(part))  # nothing but question marks
        statement = (
            "select names.key, names.article, articles.name, articles.kind, articles.weight, "  # noqa: S608
            "names.how from names join articles on articles.id = names.article "
            f"where names.key in ({marks}) and articles.kind != 4"
        )
        found += rows(statement, *part)
    return found


def _ids(pairs: set[tuple[str, str]], rows: Rows) -> dict[tuple[str, str], int]:
    made: dict[tuple[str, str], int] = {}
    for kind, name in pairs:
        found = rows(
            "select id from articles where kind = ? and name = ? order by weight desc limit 1",
            KINDS.index(kind), name,
        )  # fmt: skip
        if found:
            made[kind, name] = found[0][0]
    return made


def _written(reading: Reading, start: int, end: int) -> str:
    if end - start > 1 and any(HAN.search(t.text) for t in reading.tokens[start:end]):
        return reading.text(start, end)
    words = [token.written for token in reading.tokens[start:end]]
    return " ".join(dict.fromkeys(words))


def _is_code(reading: Reading, start: int, end: int, kind: str, written: str) -> bool:
    """FRA, Fe and US are codes where they are written so."""
    if end - start > 1 or not written.isascii():
        return False
    if kind == "element":
        return written[:1].isupper() and (len(written) == 1 or written[1:].islower())
    return written.isupper() and len(written) > 1


def _name(reading: Reading, found: list[Named], kinds_of: dict[str, frozenset[str]]) -> None:
    """Choose among names that overlap: the longest, then what has what is asked for."""
    wanted = {kind for each in reading.said for kind in _kinds_wanted(each.meaning, kinds_of)}
    word_kinds = {each.meaning.kind for each in reading.said if each.meaning.kind}
    taken_by = {place: each for each in reading.said for place in range(each.start, each.end)}

    letters = [token.written for token in reading.tokens if token.written.isalpha()]
    shouted = len(letters) > 2 and all(word.isupper() for word in letters)

    def worth(each: Named) -> float:
        score = each.score + 30 * (each.kind in wanted) + 15 * (each.kind in word_kinds)
        if each.coded and wanted and each.kind not in wanted:
            score -= 200
        if each.kind == "airport" and each.end - each.start == 1 and not each.written.isupper():
            score -= 40
        return score

    def usable(each: Named) -> bool:
        places = range(each.start, each.end)
        if len(places) > 1 and reading.tokens[each.end - 1].text.isdecimal():
            # "atomic number 79" is what is asked, and also one of gold's names.
            before = reading.language.meaning(
                reading.text(each.start, each.end - 1), len(places) - 1
            )
            if before is not None and before.attributes:
                return False
        free = [place for place in places if reading.free(place)]
        if each.coded and each.written.isupper() and len(each.written) > 1 and not shouted:
            return True
        if not free and len(places) == 1 and each.score >= 100:
            # "la densité de l'or": a word of the table, or one that says little, names an element.
            own = taken_by.get(each.start)
            return each.kind in {
                k for s in reading.said if s is not own for k in _kinds_wanted(s.meaning, kinds_of)
            }
        if not free:
            # "The Valley": words that say nothing, written as a name.
            longest = max((s.end - s.start for p, s in taken_by.items() if p in places), default=0)
            return len(places) > max(1, longest) and each.score >= 90
        longest = max(
            (taken_by[p].end - taken_by[p].start for p in places if p in taken_by), default=0
        )
        if longest > len(places) or (longest == len(places) and each.score < 90):
            return False
        weak = each.kind in ("city", "airport") and each.score < WELL_KNOWN
        if (
            weak
            and len(places) == 1
            and not each.written[:1].isupper()
            and each.kind not in word_kinds
        ):
            return len(reading.tokens) < 6 and len(each.written) > 3
        return True

    pool = [each for each in found if usable(each) and worth(each) > -80]
    pool.sort(key=lambda e: (e.start - e.end, -worth(e), e.start, e.article))
    used: set[int] = set()
    for each in pool:
        places = range(each.start, each.end)
        if used.isdisjoint(places):
            used.update(places)
            reading.named.append(each)
    overlaid = {id(taken_by[p]) for p in used if p in taken_by}
    reading.said = [
        each for each in reading.said
        if id(each) not in overlaid or (any(p not in used for p in range(each.start, each.end))
        and not each.meaning.attributes)
    ]  # fmt: skip
    reading.taken |= used
    reading.named.sort(key=lambda e: e.start)


def _kinds_wanted(meaning: Meaning, kinds_of: dict[str, frozenset[str]]) -> Iterator[str]:
    for attribute in (*meaning.attributes, *meaning.implied):
        yield from kinds_of.get(attribute, ())


def _correct(reading: Reading) -> None:
    """Words that are in no table and no name may be misspelt words of the table."""
    for place, token in enumerate(reading.tokens):
        if len(token.text) > 5 and reading.free(place) and not HAN.search(token.text):
            meaning = reading.language.nearest(token.bare or token.text)
            if meaning is not None and meaning.attributes:
                reading.said.append(Said(place, place + 1, meaning))
                reading.taken.add(place)
    reading.said.sort(key=lambda each: each.start)


def _gather(reading: Reading, text: str) -> None:
    least = False
    for each in reading.said:
        meaning = each.meaning
        if meaning.attributes:
            reading.attributes.append(meaning.attributes)
            reading.places.append(each.start)
        reading.implied += [meaning.implied] if meaning.implied else _implied_within(reading, each)
        if meaning.kind:
            reading.kinds.append(meaning.kind)
        for order in (meaning.order, *_orders_within(reading, each)):
            if order:
                least = least or order == "least"
                reading.order = "least" if least else "most"
        reading.much = reading.much or meaning.much
    reading.much = reading.much or "%" in text
    numbers = reading.language.numbers
    for place, token in enumerate(reading.tokens):
        covered = any(each.start <= place < each.end for each in reading.named)
        if covered or reading.count:
            continue
        if token.text.isdecimal() and len(token.text) < 3:
            reading.count = int(token.text)
        elif token.text in numbers and reading.order and place not in _inside(reading):
            reading.count = numbers[token.text]
    for start, end in reading.spans(3):
        for kind, name in reading.language.names.get(reading.text(start, end), ()):
            if kind == "continent":
                reading.continent = name
    if not reading.continent and reading.language.code == "en":
        words = f" {joined(token.text for token in reading.tokens)} "
        for name in CONTINENTS:
            if f" {name.casefold()} " in words:
                reading.continent = name


_HEIGHTS: Final = frozenset(
    ("highest point", "highest elevation", "lowest point", "second definition")
)


def _orders_within(reading: Reading, said: Said) -> Iterator[str]:
    """Directions in the words of a longer phrase: "live the longest", but no "highest point"."""
    if said.end - said.start < 2 or not (said.meaning.attributes or said.meaning.implied):
        return
    if _HEIGHTS.intersection(said.meaning.attributes):
        return
    for length in (2, 1):
        for start in range(said.start, said.end - length + 1):
            text = reading.text(start, start + length)
            meaning = reading.language.meaning(text, length)
            if meaning is not None and meaning.order:
                yield meaning.order


def _implied_within(reading: Reading, said: Said) -> list[tuple[str, ...]]:
    """What the words of a phrase like "más grande" imply, where the phrase is a direction only."""
    if said.end - said.start < 2 or said.meaning.attributes or not said.meaning.order:
        return []
    found = (
        reading.language.meaning(reading.text(p, p + 1), 1) for p in range(said.start, said.end)
    )
    return [each.implied for each in found if each is not None and each.implied]


def _inside(reading: Reading) -> set[int]:
    """Words of phrases of more than one word."""
    return {p for s in reading.said if s.end - s.start > 1 for p in range(s.start, s.end)}


CONTINENTS: Final = (
    "North America", "South America", "Africa", "Europe", "Asia", "Oceania", "Antarctica",
)  # fmt: skip
