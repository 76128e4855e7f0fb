"""What a question asks of the almanac: attributes by their many names, entities by theirs.

Nothing is understood here. Words of the question are looked up in two lists, longest first: other
words for an attribute ("how many people live" is the population), and names of entities. What is
in neither list may be misspelt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from perilune.search.almanac.attributes import Aliases
from perilune.search.almanac.text import key
from perilune.search.common_words import COMMON

LONGEST_NAME = 10  # words
LONGEST_ALIAS = 6
MOST_WORDS = 48
LONGEST_TEXT = 20_000  # characters of a question that are read
MOST_NUMBERS = 4
_NUMBER = re.compile(
    r"(?<![\w.,])-?(?:[0-9]{1,3}(?:,[0-9]{3}){1,6}|[0-9]{1,18})(?:\.[0-9]{1,12})?(?![\w]|[.,][0-9])"
)
_YEAR = re.compile(r"1[0-9]{3}|20[0-9]{2}")

# Words that name a kind of entity: they make entities of this kind likelier.
KIND_WORDS = {
    "country": "country", "countries": "country", "nation": "country",
    "city": "city", "town": "city", "cities": "city",
    "element": "element", "metal": "element", "chemical": "element", "gas": "element",
    "atom": "element",
    "airport": "airport", "airfield": "airport", "iata": "airport", "icao": "airport",
    "word": "word", "define": "word", "definition": "word", "meaning": "word", "mean": "word",
    "means": "word", "synonym": "word", "synonyms": "word", "opposite": "word",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """Words `start` to `end` (exclusive) of a question, as a key."""

    start: int
    end: int
    text: str

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def places(self) -> range:
        return range(self.start, self.end)


@dataclass(slots=True)
class Query:
    """A question in parts. `words` are keys, `written` the same words as they were written."""

    words: list[str]
    written: list[str]
    named: list[tuple[Span, list[int]]] = field(default_factory=list)  # attributes, by their ids
    entity: Span | None = None  # words in it name no attribute: Salt Lake City
    asked: set[int] = field(default_factory=set)  # places of words that name attributes
    kinds: set[str] = field(default_factory=set)
    numbers: list[float] = field(default_factory=list)  # that may be values: no years

    def spans(self, longest: int) -> list[Span]:
        """All runs of words, the longest first."""
        count = len(self.words)
        return [
            Span(start, start + length, " ".join(self.words[start : start + length]))
            for length in range(min(longest, count), 0, -1)
            for start in range(count - length + 1)
        ]

    def ask(self, span: Span, attributes: list[int]) -> None:
        """Take a span for the name of attributes, if there are any."""
        if attributes:
            self.asked.update(span.places)
            self.named.append((span, attributes))

    @property
    def attributes(self) -> list[int]:
        """Ids of the attributes that are asked for, the likeliest first."""
        spans = [(span, found) for span, found in self.named if not self.is_in_entity(span)]
        return list(dict.fromkeys(each for _, found in spans for each in found))

    def is_in_entity(self, span: Span) -> bool:
        """Whether a span is a part of the longest name in the question, or all of it."""
        entity = self.entity
        return entity is not None and entity.start <= span.start and span.end <= entity.end

    def says_nothing(self, place: int) -> bool:
        word = self.words[place]
        return word in COMMON or place in self.asked or word in KIND_WORDS


def read_query(text: str, aliases: Aliases) -> Query:
    """Split a question and find the attributes that it asks for."""
    words: list[str] = []
    written: list[str] = []
    for part in re.split(r"\s+", text[:LONGEST_TEXT].strip())[:MOST_WORDS]:
        for word in key(part).split():
            words.append(word)
            written.append(part.strip(".,;:!?()[]\"'"))
    # One part may be many words ("a/b/c/..."): each of them is looked up.
    query = Query(words[:MOST_WORDS], written[:MOST_WORDS])
    query.kinds = {KIND_WORDS[word] for word in query.words if word in KIND_WORDS}
    query.numbers = [
        float(number.replace(",", ""))
        for number in _NUMBER.findall(text[:LONGEST_TEXT])[:MOST_NUMBERS]
        if not _YEAR.fullmatch(number)
    ]
    for span in query.spans(LONGEST_ALIAS):
        if not query.asked.intersection(span.places):
            query.ask(span, aliases.exact(span.text))
    return query
