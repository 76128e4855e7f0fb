"""What a question asks of the almanac: attributes by their many names, entities by theirs.

Nothing is understood here. Words of the question are looked up in two lists, longest first: other
words for an attribute ("how many people live" is the population), and names of entities. What is
in neither list may be misspelt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from perilune.agent.tools.search.almanac.text import edit_distance, key, may_be_near, tolerance

LONGEST_NAME = 7  # words
LONGEST_ALIAS = 6
MOST_WORDS = 48

# Words that say nothing about which fact or entity is meant.
_COMMON = """
    a about all also am an and any are as at be been but by can could did do does for from had has
    have he her his how i if in into is it its itself let like many me more most much my of on one
    or our please s she show so some such tell than that the their them then there these they this
    those to us was we were what whats when where which who whom whose why will with would you your
    know give find name called value exact exactly currently today theres got get per
"""
COMMON = frozenset(_COMMON.split())
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


@dataclass(slots=True)
class Query:
    """A question in parts. `words` are keys, `written` the same words as they were written."""

    words: list[str]
    written: list[str]
    attributes: list[int] = field(default_factory=list)  # ids, the likeliest first
    asked: set[int] = field(default_factory=set)  # places of words that name attributes
    kinds: set[str] = field(default_factory=set)

    def spans(self, longest: int) -> list[Span]:
        """All runs of words, the longest first."""
        count = len(self.words)
        return [
            Span(start, start + length, " ".join(self.words[start : start + length]))
            for length in range(min(longest, count), 0, -1)
            for start in range(count - length + 1)
        ]

    def says_nothing(self, place: int) -> bool:
        word = self.words[place]
        return word in COMMON or place in self.asked or word in KIND_WORDS


def read_query(text: str, aliases: dict[str, list[int]]) -> Query:
    """Split a question and find the attributes that it asks for.

    `aliases`: key of an attribute's name -> ids of the attributes that it may mean.
    """
    words: list[str] = []
    written: list[str] = []
    for part in re.split(r"\s+", text.strip())[:MOST_WORDS]:
        for word in key(part).split():
            words.append(word)
            written.append(part.strip(".,;:!?()[]\"'"))
    query = Query(words, written)
    query.kinds = {KIND_WORDS[word] for word in words if word in KIND_WORDS}
    for span in query.spans(LONGEST_ALIAS):
        places = set(range(span.start, span.end))
        if query.asked & places:
            continue
        found = aliases.get(span.text) or aliases.get(span.text.removesuffix("s"))
        if found:
            query.asked |= places
            query.attributes += [each for each in found if each not in query.attributes]
    return query


def nearest_alias(word: str, aliases: dict[str, list[int]]) -> list[int]:
    """The attributes of the alias that a misspelt word is nearest to; none when none is near."""
    limit = tolerance(word)
    if not limit:
        return []
    best, nearest = limit + 1, ""
    for alias in aliases:
        if " " in alias or len(alias) < 4 or not may_be_near(word, alias, limit):
            continue
        distance = edit_distance(word, alias, limit)
        if distance < best:
            best, nearest = distance, alias
    return aliases[nearest] if nearest else []
