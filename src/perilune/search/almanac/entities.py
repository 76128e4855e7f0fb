"""Which entities a question names, and how likely each is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perilune.search.almanac.attributes import Aliases
from perilune.search.almanac.query import (
    KIND_WORDS,
    LONGEST_NAME,
    Query,
    Span,
)
from perilune.search.almanac.tables import KINDS, How
from perilune.search.almanac.text import edit_distance, key, may_be_near, tolerance
from perilune.search.common_words import COMMON

Rows = Callable[..., list[tuple[Any, ...]]]

# What speaks for a candidate, in points.
A_WORD = 10  # of its name, in the question
HAS_ATTRIBUTE = 12  # that is asked for
RIGHT_KIND = 8  # "city", "element", ... in the question
IN_THE_NAMED_PLACE = 9  # "Paris, Texas"
WEIGHT = 10  # times its weight, 0 to 1
# And against it.
LESSER_NAME = {How.NAME: 0, How.ALIAS: 1, How.OTHER: 6, How.CODE: 4}
ONLY_COMMON_WORDS = 9
PART_OF_A_NAME = 8  # York, in "New York"
A_SLIP = 5  # a letter that differs

WELL_KNOWN = 50  # weight of a name that is not taken for a misspelt one
LONGEST_SLIP = 3  # words of an attribute that is misspelt
MOST = 60  # candidates that are looked at closely
_WORD = KINDS.index("word")
_NAMED = (
    "select names.key, names.article, names.how, articles.kind, articles.weight "
    "from names join articles on articles.id = names.article"
)
_PLACES = "select id from attributes where name in ('country', 'region', 'city')"


@dataclass(slots=True)
class Candidate:
    """An article, and whether it has a fact that is asked for."""

    article: int
    score: float
    able: bool = False


@dataclass(slots=True)
class _Named:
    """An article and the span that names it."""

    article: int
    how: How
    kind: int
    weight: int
    span: Span
    slips: int = 0


def find_entities(asked: Query, aliases: Aliases, rows: Rows) -> list[Candidate]:
    """Candidates, the likeliest first. Misspelt words of the question may add to `asked`."""
    spans = [span for span in asked.spans(LONGEST_NAME) if not _is_common(asked, span)]
    named = _named(asked, spans, rows)
    for span in asked.spans(LONGEST_SLIP):
        if _may_be_attribute(asked, span, named):
            asked.ask(span, aliases.nearest(span.text))
    named = [each for each in named if not _is_noise(asked, each)]
    whole = [each.span for each in named if each.kind != _WORD and len(each.span) > 1]
    asked.entity = max(whole, key=len, default=None)
    found = _ranked(asked, named, rows)
    little_known = all(each.kind == _WORD or each.weight < WELL_KNOWN for each in named)
    if found and asked.attributes and little_known and not found[0].able:
        # Perhaps not what is meant: Columbia's currency is Colombia's.
        found = _ranked(asked, [*named, *_misspelt(asked, rows)], rows)
    return found


def find_misspelt(asked: Query, rows: Rows) -> list[Candidate]:
    """Candidates whose names differ by a slip or two from words of the question."""
    return _ranked(asked, _misspelt(asked, rows), rows)


def _is_common(asked: Query, span: Span) -> bool:
    """Words that say nothing ("the airport" is not an airport's code THE), unless they are written
    as a name or code in mid-sentence."""
    common = COMMON | KIND_WORDS.keys()
    if len(span) > 1 and not all(asked.words[place] in common for place in span.places):
        return False
    if not asked.says_nothing(span.start):
        return False
    written = asked.written[span.start]
    alone = len(asked.words) == len(span)
    return not (alone or (span.start and written[:1].isupper() and not _shouted(asked)))


def find_by_common_words(asked: Query, rows: Rows) -> list[Candidate]:
    """Candidates where nothing else is named: a city in "mobile population", a word in "define
    mass" and in "what is an airport"."""
    for common in (COMMON | KIND_WORDS.keys(), COMMON):
        spans = [
            span
            for span in asked.spans(LONGEST_NAME)
            if not all(asked.words[place] in common for place in span.places)
        ]
        found = _named(asked, spans, rows)
        places = [] if _defines(asked) else [each for each in found if each.kind != _WORD]
        named = places or [each for each in found if each.kind == _WORD]
        if named:
            longest = max(len(each.span) for each in named)
            named = [each for each in named if len(each.span) == longest]
            if named[0].kind == _WORD:
                asked.entity = named[0].span  # and so no attribute
            return _ranked(asked, named, rows)
    return []


def _is_noise(asked: Query, named: _Named) -> bool:
    """A common word, now that more of them are known; or "live in", which only the dictionary
    has."""
    if named.kind == _WORD and len(asked.words) > len(named.span) and not _defines(asked):
        return all(map(asked.says_nothing, named.span.places))
    return _is_common(asked, named.span)


def _shouted(asked: Query) -> bool:
    return all(word.isupper() for word in asked.written if word.isalpha())


def _may_be_attribute(asked: Query, span: Span, named: list[_Named]) -> bool:
    """Whether a span may be a misspelt attribute: it is none yet, no part of an entity's name, no
    word of the dictionary; and something else is named, or nothing."""
    if asked.asked.intersection(span.places) or all(map(asked.says_nothing, span.places)):
        return False
    others = False
    for each in named:
        overlaps = each.span.start < span.end and span.start < each.span.end
        if each.span == span or (overlaps and each.kind != _WORD):
            return False
        others = others or not overlaps
    return others or not named


def _defines(asked: Query) -> bool:
    return "word" in asked.kinds


def _named(asked: Query, spans: list[Span], rows: Rows) -> list[_Named]:
    by_text: dict[str, list[Span]] = {}
    for span in spans:
        by_text.setdefault(span.text, []).append(span)
    if not by_text:
        return []
    texts = list(by_text)
    found = rows(f"{_NAMED} where names.key in ({_marks(texts)})", *texts)
    return [
        _Named(article, How(how), kind, weight, span)
        for text, article, how, kind, weight in found
        for span in by_text[text]
        if how != How.CODE or _as_code(asked, span, KINDS[kind])
    ]


def _as_code(asked: Query, span: Span, kind: str) -> bool:
    """FRA, Fe and US are codes where they are written so, or where the kind is asked for."""
    if len(span) > 1:
        return False
    written = asked.written[span.start]
    if kind in asked.kinds and asked.words[span.start] not in KIND_WORDS:
        return True
    if kind == "element":
        return written[:1].isupper() and (len(written) == 1 or written[1:].islower())
    return written.isupper() and len(written) > 1 and not _shouted(asked)


def _misspelt(asked: Query, rows: Rows) -> list[_Named]:
    """Names that differ from a run of words by a slip or two.

    A part of such a name is as it was written. With its first part it is looked up among the names,
    with its last one among the names written backwards. Two slips leave one third alone; where
    that is the middle one, the name is not found.
    """
    found: list[_Named] = []
    for span in asked.spans(3):
        if any(map(asked.says_nothing, span.places)):
            continue
        limit = tolerance(span.text)
        if not limit:
            continue
        part = max(3, len(span.text) // (limit + 1)) if limit > 1 else len(span.text) // 2
        near = _starting("names", span.text[:part], rows)
        near |= {
            each[::-1] for each in _starting("reversed_names", span.text[: -part - 1 : -1], rows)
        }
        near = {text for text in near if may_be_near(span.text, text, limit)}
        slips = {text: edit_distance(span.text, text, limit) for text in near}
        near = {text for text, distance in slips.items() if distance <= limit}
        if not near:
            continue
        texts = sorted(near)[:MOST]
        statement = f"{_NAMED} where names.key in ({_marks(texts)}) and names.how < {How.OTHER}"
        found += [
            _Named(article, How(how), kind, weight, span, slips[text])
            for text, article, how, kind, weight in rows(statement, *texts)
        ]
    return found


def _starting(table: str, start: str, rows: Rows) -> set[str]:
    statement = f"select distinct key from {table} where key >= ? and key < ?"  # noqa: S608
    return {row[0] for row in rows(statement, start, start + "\U0010ffff")}


def _ranked(asked: Query, named: list[_Named], rows: Rows) -> list[Candidate]:
    best: dict[int, tuple[float, _Named]] = {}
    for each in named:
        score = A_WORD * len(each.span) + WEIGHT * each.weight / 100 - LESSER_NAME[each.how]
        score -= A_SLIP * each.slips
        if KINDS[each.kind] in asked.kinds:
            score += RIGHT_KIND
        if all(map(asked.says_nothing, each.span.places)):
            score -= ONLY_COMMON_WORDS
        if asked.is_in_entity(each.span) and each.span != asked.entity:
            score -= PART_OF_A_NAME
        if each.article not in best or score > best[each.article][0]:
            best[each.article] = (score, each)
    closest = sorted(best.values(), key=lambda item: (-item[0], item[1].article))[:MOST]
    if not closest:
        return []
    facts: dict[int, dict[int, Any]] = {each.article: {} for _, each in closest}
    marks = _marks(closest)  # nothing but question marks
    statement = f"select article, attribute, value from stored where article in ({marks})"  # noqa: S608
    for article, attribute, value in rows(statement, *facts):
        facts[article][attribute] = value
    place_ids = [row[0] for row in rows(_PLACES)]
    text = f" {' '.join(asked.words)} "
    ranked = []
    for score, each in closest:
        known = facts[each.article]
        able = any(wanted in known for wanted in asked.attributes)
        score += HAS_ATTRIBUTE * able
        own = f" {each.span.text} "
        score += IN_THE_NAMED_PLACE * any(
            (place := f" {key(str(known[place_id]))} ") in text and place not in own
            for place_id in place_ids
            if place_id in known
        )
        ranked.append((-score, each.span.start, each.article, able))
    return [Candidate(article, -lost, able) for lost, _, article, able in sorted(ranked)]


def _marks(values: object) -> str:
    return ", ".join("?" * len(values))  # type: ignore[arg-type]
