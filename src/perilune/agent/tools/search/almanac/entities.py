"""Which entities a question names, and how likely each is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perilune.agent.tools.search.almanac.attributes import Aliases
from perilune.agent.tools.search.almanac.query import (
    KIND_WORDS,
    LONGEST_NAME,
    Query,
    Span,
)
from perilune.agent.tools.search.almanac.tables import KINDS, How
from perilune.agent.tools.search.almanac.text import edit_distance, key, may_be_near, tolerance

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
    article: int
    score: float


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
    named = [each for each in named if not _is_common(asked, each.span)]
    whole = [each.span for each in named if each.kind != _WORD and len(each.span) > 1]
    asked.entity = max(whole, key=len, default=None)
    if not named and asked.asked:  # "mobile population": one of them is no attribute
        spans = [span for span in asked.spans(1) if span.start in asked.asked]
        named = [each for each in _named(asked, spans, rows) if each.kind != _WORD]
    elif not _defines(asked) and all(each.kind == _WORD for each in named):
        # A real word, yet perhaps a misspelt name: both are candidates.
        named += _misspelt(asked, rows)
    return _ranked(asked, named, rows)


def find_misspelt(asked: Query, rows: Rows) -> list[Candidate]:
    """Candidates whose names differ by a slip or two from words of the question."""
    return _ranked(asked, _misspelt(asked, rows), rows)


def _is_common(asked: Query, span: Span) -> bool:
    """A single word that says nothing, unless it is written as a name or code in mid-sentence."""
    if len(span) > 1 or not asked.says_nothing(span.start):
        return False
    written = asked.written[span.start]
    alone = len(asked.words) == 1
    return not (alone or (span.start and written[:1].isupper() and not _shouted(asked)))


def _shouted(asked: Query) -> bool:
    return all(word.isupper() for word in asked.written if word.isalpha())


def _may_be_attribute(asked: Query, span: Span, named: list[_Named]) -> bool:
    """Whether a span may be a misspelt attribute: it is none yet, and no entity's name. A word of
    the dictionary may be, where something else is named: "the capitol of Chad"."""
    if asked.asked.intersection(span.places) or all(map(asked.says_nothing, span.places)):
        return False
    others = False
    for each in named:
        overlaps = each.span.start < span.end and span.start < each.span.end
        if overlaps and each.kind != _WORD:
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

    One half of such a name is as it was written (unless each half has a slip): the first half is
    looked up among the names, the second one among the names written backwards.
    """
    found: list[_Named] = []
    for span in asked.spans(3):
        if any(map(asked.says_nothing, span.places)):
            continue
        limit = tolerance(span.text)
        if not limit:
            continue
        half = len(span.text) // 2
        near = _starting("names", span.text[:half], rows)
        near |= {
            each[::-1] for each in _starting("reversed_names", span.text[: half - 1 : -1], rows)
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
        score += HAS_ATTRIBUTE * any(wanted in known for wanted in asked.attributes)
        own = f" {each.span.text} "
        score += IN_THE_NAMED_PLACE * any(
            (place := f" {key(str(known[place_id]))} ") in text and place not in own
            for place_id in place_ids
            if place_id in known
        )
        ranked.append((-score, each.span.start, each.article))
    return [Candidate(article, -lost) for lost, _, article in sorted(ranked)]


def _marks(values: object) -> str:
    return ", ".join("?" * len(values))  # type: ignore[arg-type]
