"""What a question asks, as far as its words tell: of which entities, for which attribute, and what
is to be done with the values.

Nothing is guessed: what the words do not tell is left open, and then nothing is refused for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from perilune.agent.checks.records import Record
from perilune.search.almanac.attributes import read_attributes
from perilune.search.almanac.text import edit_distance, key, may_be_near, tolerance
from perilune.search.common_words import COMMON
from perilune.search.facts import STOP_WORDS

_UP = [
    "largest",
    "larger",
    "biggest",
    "bigger",
    "greatest",
    "greater",
    "highest",
    "higher",
    "most",
    "more",
    "longest",
    "longer",
    "tallest",
    "taller",
    "heaviest",
    "heavier",
    "deepest",
    "deeper",
    "widest",
    "wider",
    "fastest",
    "faster",
    "latest",
    "later",
    "newest",
    "newer",
    "youngest",
    "younger",
    "richest",
    "richer",
    "warmest",
    "warmer",
    "hottest",
    "hotter",
    "last",
    "max",
    "maximum",
]
_DOWN = [
    "smallest",
    "smaller",
    "least",
    "less",
    "fewest",
    "fewer",
    "lowest",
    "lower",
    "shortest",
    "shorter",
    "lightest",
    "lighter",
    "shallowest",
    "narrowest",
    "slowest",
    "slower",
    "earliest",
    "earlier",
    "oldest",
    "older",
    "first",
    "poorest",
    "poorer",
    "coldest",
    "colder",
    "coolest",
    "min",
    "minimum",
]
_OF_YEARS = {
    "latest",
    "later",
    "newest",
    "newer",
    "youngest",
    "younger",
    "earliest",
    "earlier",
    "oldest",
    "older",
}
_OPERATIONS = (
    ("sum", r"\badded together\b|\badd up\b"),
    ("ratio", r"\bhow many times\b|\bdivide[sd]?\b|\bratio\b"),
    ("mean", r"\b(?:mean|average) .{0,60}\bof\b.*(?:,| and )|\bon average\b|\baverage of\b"),
    (
        "difference",
        r"\bdiffer\b|\bdifference\b|\bhow far apart\b|\bgap\b|\bhow far is the (?:smallest|largest)\b|"  # noqa: E501
        r"\bspan\b|\bhow (?:much|many) (?:more|less|fewer|larger|smaller|higher|longer|taller)\b|\bdisagreement\b",  # noqa: E501
    ),
    (
        "sum",
        r"\badd(?:ed)?\b|\btogether\b|\bcombined\b|\bsum of\b|\bcounted as one\b|\btotal\b.*(?:,| and )",  # noqa: E501
    ),
)
_MANY = re.compile(
    r"\bhow many of\b|\bcount those\b|\bin how many cases\b|\bhow many .{3,60}\b(?:above|exceed)"
)
_ABOVE = re.compile(
    r"\b(?:above|more than|over|greater than|exceeds?|larger than|higher than)\s+(-?\d[\d,]*(?:\.\d+)?)"  # noqa: E501
)
_ORDER = re.compile(r"\b(?:order|sort|rank|line up|arrange)\b")
_SECOND = re.compile(r"\bsecond\b|\brunner-up\b|\b2nd\b")
_EXCEPT = r"(?:other than|besides|except(?: for)?|apart from|aside from|not|leaving)"
_LATEST = re.compile(
    r"\b(?:latest|most recent|newest)\s+(?:source|figure|count|value|report)|\bonly the newest\b",
    re.I,
)
_UNKNOWN = re.compile(
    r"\bunknown\b|\bno (?:information|answer|data|record|article|source|entry|page)\b|"
    r"\b(?:not|n't|never|nowhere|cannot|can't)\b.{0,30}\b(?:known|stated|given|find|found|say|says|said|"
    r"available|recorded|determined?|listed|mentioned|told)\b|"
    r"\bnicht (?:bekannt|gefunden)\b|\bkeine (?:quelle|angabe)\b|\binconnue?\b|\baucune source\b|\bdesconocid[oa]\b",  # noqa: E501
    re.I,
)


@dataclass(slots=True)
class Asked:
    """A question in parts. `names`: entities that it names, in order; `attributes`: the names of
    those that its words ask for. `operation`: "", "sum", "mean", "difference", "ratio", "pick",
    "second", "order", "above", "count". `down`: the smallest is asked for; None where the words do
    not tell."""

    text: str
    names: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    phrases: int = 0
    """How many phrases ask for attributes: two in "population of the capital"."""
    near: bool = False
    """Whether the names are only nearly written, or in part."""
    sure: bool = False
    """Whether every word of the question is accounted for, so that nothing else is asked."""
    operation: str = ""
    down: bool | None = None
    limit: str = ""
    latest: bool = False
    years: tuple[str, ...] = ()
    excepted: set[str] = field(default_factory=set)


def says_unknown(answer: str) -> bool:
    """Whether an answer says that it is not known."""
    return bool(_UNKNOWN.search(answer))


def read_question(text: str, records: Sequence[Record], aliases: dict[str, set[str]]) -> Asked:
    """What is asked. `aliases`: keys of other names of the records' entities."""
    asked = Asked(text)
    asked.names = named_in(text, {each.entity for each in records}, aliases)
    asked.near = not any(strictly_named(each, text, aliases) for each in asked.names)
    low = " ".join(text.casefold().split())
    covered = set(" ".join(map(key, asked.names)).split())
    found = read_attributes_in(
        _without_kinds(_LATEST.sub(" 0 ", text), asked.names),
        {each.attribute for each in records},
        covered,
    )
    asked.attributes, rest, asked.phrases = found
    asked.sure = bool(asked.attributes) and not rest
    asked.years = tuple(re.findall(r"(?<![\w.,])(1[0-9]{3}|20[0-9]{2})(?![\w,]|\.\d)", text))
    asked.latest = bool(_LATEST.search(low))
    above = _ABOVE.search(low)
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)?", low)
    marked = _directions(words)
    if marked:
        asked.down = marked[0] in _DOWN
        if len({each in _DOWN for each in marked}) > 1 and " ".join(marked[:2]) not in low:
            asked.down = None
    asked.excepted = {
        name
        for name in asked.names
        if re.search(rf"\b{_EXCEPT} (?:the )?{re.escape(name.casefold())}\b", low)
        or re.search(rf"{re.escape(name.casefold())} is an? [\w ]+\. (?:for )?which other\b", low)
    }
    if above and _MANY.search(low):
        asked.operation, asked.limit = "count", above[1].replace(",", "")
    elif above:
        asked.operation, asked.limit = "above", above[1].replace(",", "")
    else:
        asked.operation = next((name for name, way in _OPERATIONS if re.search(way, low)), "")
        compared = len(asked.names) > 1 and marked
        if asked.operation == "sum" and compared and re.search(r"\bwhich\b", low):
            asked.operation = ""
        if not asked.operation and compared:
            asked.operation = (
                "order" if _ORDER.search(low) else "second" if _SECOND.search(low) else "pick"
            )
    return asked


def _without_kinds(text: str, names: Iterable[str]) -> str:
    """A question without the words that say what an entity is: "the school Tavor", "Tavor is a
    school". They ask for nothing."""
    said = key(text)
    for name in map(re.escape, filter(None, map(key, names))):
        said = re.sub(rf"\b(the|an?|this|of|for) \w+ (named |called )?(?={name}\b)", r"\1 0 ", said)
        said = re.sub(rf"\b({name}(?: is| was| which is)? an?) \w+\b", r"\1 0", said)
    return said


def _directions(words: Sequence[str]) -> list[str]:
    """The words that say which end is asked for. "The largest first": the largest; "first" alone
    counts where nothing else does."""
    found = [each for each in words if each in _UP or each in _DOWN]
    return [each for each in found if each not in ("first", "last")] or found


def of_years(text: str) -> bool:
    """Whether the words compare in time."""
    return bool(_OF_YEARS & set(re.findall(r"[a-z]+", text.casefold())))


def named_in(text: str, entities: Iterable[str], aliases: dict[str, set[str]]) -> list[str]:
    """The entities that a text names, in its order: by name or alias, else by a slip or a part."""
    said = f" {key(text)} "
    places: dict[str, int] = {}
    spans: list[tuple[int, int, str]] = []
    for entity in entities:
        for name in {key(entity), *aliases.get(entity, ())}:
            at = (
                said.find(f" {name} ")
                if name and not (name in COMMON or name in STOP_WORDS)
                else -1
            )
            if at >= 0:
                spans.append((at, at + len(name) + 1, entity))
    for start, end, entity in spans:
        # Part of a longer name of another entity is not named: Guinea in "Guinea-Bissau".
        if any(s <= start and end <= e and (e - s) > (end - start) for s, e, _ in spans):
            continue
        places[entity] = min(start, places.get(entity, start))
    if places:
        return sorted(places, key=lambda each: places[each])
    return _nearly_named(said, entities)


def _nearly_named(said: str, entities: Iterable[str]) -> list[str]:
    words = [each for each in said.split() if len(each) > 3]
    found = []
    for entity in entities:
        parts = [each for each in key(entity).split() if len(each) > 3 and each not in COMMON]
        if any(_near(part, word) for part in parts for word in words):
            found.append(entity)
    return found


def _near(one: str, other: str) -> bool:
    limit = tolerance(one)
    return one == other or bool(
        limit and may_be_near(one, other, limit) and edit_distance(one, other, limit) <= limit
    )


@lru_cache(maxsize=1)
def _aliases() -> dict[str, set[str]]:
    """Words for an attribute -> the attributes that they may mean."""
    found: dict[str, set[str]] = {}
    for attribute in read_attributes():
        for alias in attribute.aliases:
            found.setdefault(alias, set()).add(attribute.name)
    return found


def strictly_named(name: str, text: str, aliases: dict[str, set[str]]) -> bool:
    """Whether a text has an entity's name, or one of its other names, whole."""
    said = f" {key(text)} "
    return any(f" {each} " in said for each in (key(name), *aliases.get(name, ())))


def attributes_in(
    text: str, known: Iterable[str], covered: Iterable[str] = ()
) -> tuple[set[str], list[str]]:
    """The attributes that a text's words ask for, and the words that say something else."""
    found, rest, _ = read_attributes_in(text, known, covered)
    return found, rest


def read_attributes_in(
    text: str, known: Iterable[str], covered: Iterable[str] = ()
) -> tuple[set[str], list[str], int]:
    """As `attributes_in`, with the number of the phrases that ask.

    `known`: attributes of the records, beside those of the almanac. `covered`: words of names.
    """
    covered = set(covered)
    phrases = 0
    table = dict(_aliases())
    own = {key(each): each for each in known}
    for each in known:
        table[key(each)] = table.get(key(each), set()) | {each}
    words = key(text).split()
    taken = [each in covered for each in words]
    found: set[str] = set()
    for length in range(6, 0, -1):
        for start in range(len(words) - length + 1):
            if any(taken[start : start + length]):
                continue
            phrase = " ".join(words[start : start + length])
            meant = table.get(phrase) or table.get(phrase.removesuffix("s"))
            bare = " ".join(each for each in phrase.split() if each not in STOP_WORDS)
            if meant and bare in own:
                meant = meant | {own[bare]}  # "type of": of a word, and of a ship
            if meant and not (length == 1 and phrase in STOP_WORDS and phrase not in ("year",)):
                found |= meant
                phrases += 1
                taken[start : start + length] = [True] * length
    rest = [
        word
        for word, done in zip(words, taken, strict=True)
        if not done and word not in COMMON and word not in STOP_WORDS and not word[0].isdigit()
    ]
    return found, rest, phrases


def content_words(text: str) -> set[str]:
    """The words of a text that say something, singular and plural alike."""
    return {
        _stem(each) for each in key(text).split() if each not in COMMON and each not in STOP_WORDS
    }


def _stem(word: str) -> str:
    for ending, least in (("ies", 5), ("es", 6), ("s", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("ss"):
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word


def related(one: set[str], other: set[str]) -> bool:
    """Whether two sets of words share one, give or take a slip."""
    return any(_near(a, b) for a in one for b in other)
