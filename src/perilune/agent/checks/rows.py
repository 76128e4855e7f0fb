"""Rows: each cell of a table stands in a record of its row's entity, for its column's attribute.

That a figure stands somewhere in what was read is not enough for a table: it must be the figure of
that row. Looked at are tables (Markdown, comma-separated, JSON) whose rows are entities that the
almanac's facts were read of; what sub-agents read counts, for the orchestrator keeps their sources.
Cells that are computed, converted or not known are left to the other checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from typing import Final

from perilune.agent.checks.check import Proposal, made
from perilune.agent.checks.records import (
    Record,
    objects_in,
    read_value,
    records_of,
    tables_in,
    words_of,
)
from perilune.agent.evidence.store import CITATION
from perilune.events import CheckMade
from perilune.search.almanac.language import (
    LANGUAGES,
    language,
    phrase_key,
)
from perilune.search.almanac.language import (
    words_of as count_words,
)
from perilune.search.almanac.text import key

SCHEMES: Final = ("almanac:", "world:")
"""Where facts come from that say of which entity they are."""
MOST_PROBLEMS: Final = 6
_UNKNOWN = frozenset(
    ("", "-", "–", "—", "?", "n a", "na", "none", "unknown", "not available", "no data",
     "not found",
     "unbekannt", "inconnu", "desconocido", "未知", "null")
)  # fmt: skip
_MARKUP = re.compile(r"\*\*|__|`|\[(?:ev:[0-9a-f]+|\d+)\](?:\([^)]*\))?")
_YEAR_BEHIND = re.compile(r"\s*\((?:est\.? ?|c\. ?)?(?:1[5-9]|20)\d\d(?:[^()]{0,20})?\)$")
_SCALES: Final = {"thousand": 3, "k": 3, "million": 6, "millions": 6, "mn": 6, "m": 6, "mio": 6,
                  "billion": 9, "billions": 9, "bn": 9, "b": 9, "trillion": 12, "tn": 12,
                  "millionen": 6, "milliarden": 9, "mrd": 9, "milliards": 9, "millones": 6,
                  "万": 4, "亿": 8, "百万": 6, "十亿": 9}  # fmt: skip
_OTHER_UNITS = re.compile(
    r"\b(?:sq(?:uare)? ?mi(?:les)?|mi2|miles?|mi|feet|foot|ft|acres?|hectares?|ha|fahrenheit|f|"
    r"kg m3|kelvin|celsius)\b|°f|mi²|英里|英尺|公顷|华氏",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"^[~≈<>]?\s?(?:US\$|\$|€|USD)?\s?(?P<number>[-−+]?\d[\d,.'’   ]*\d|[-−+]?\d)\s?(?P<unit>.*)$"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of an answer's table: the name of its row, the head of its column, what it says."""

    row: str
    column: str
    text: str


class Rows:
    """The check. Silent where the answer has no table, or nothing of the almanac was read."""

    name = "rows"

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        records = [each for each in records_of(proposal) if each.address.startswith(SCHEMES)]
        if not records:
            return None
        problems, judged = row_problems(proposal.text, records)
        if not judged:
            return None
        return made(self.name, problems[:MOST_PROBLEMS])


def row_problems(text: str, records: Sequence[Record]) -> tuple[list[str], int]:
    """-> what is wrong with the cells of an answer's tables, and how many cells were judged."""
    by_entity: dict[str, list[Record]] = {}
    for record in records:
        by_entity.setdefault(key(record.entity), []).append(record)
    problems: list[str] = []
    judged = 0
    for cell in cells_of(text, by_entity):
        own = by_entity[_entity(cell.row, by_entity)]
        said = _problem(cell, own, records)
        judged += said is not None
        if said:
            problems.append(said)
    return problems, judged


def cells_of(text: str, by_entity: dict[str, list[Record]]) -> Iterator[Cell]:
    """The cells behind the names of known entities. The name may stand behind a number."""
    for header, rows in tables_in(text):
        heads = [_plain(each) for each in header]
        column = _naming_column(rows, by_entity)
        if column is None:
            continue
        for row in rows:
            if column >= len(row) or _entity(row[column], by_entity) not in by_entity:
                continue
            for place, (head, cell) in enumerate(zip(heads, row, strict=False)):
                if place != column:
                    yield Cell(_plain(row[column]), head, _plain(cell))
    for record in objects_in(text):
        if _entity(record.entity, by_entity) in by_entity:
            yield Cell(record.entity, record.attribute, _plain(record.value))


def _naming_column(rows: Sequence[Sequence[str]], by_entity: dict[str, list[Record]]) -> int | None:
    counts = [
        sum(column < len(row) and _entity(row[column], by_entity) in by_entity for row in rows)
        for column in range(min(3, max((len(row) for row in rows), default=0)))
    ]
    best = max(range(len(counts)), key=lambda column: counts[column], default=None)
    return best if best is not None and counts[best] else None


def _plain(cell: str) -> str:
    return _MARKUP.sub("", CITATION.sub("", cell)).strip()


def _entity(name: str, by_entity: dict[str, list[Record]]) -> str:
    """The key of the entity that a name in any of the languages stands for."""
    text = key(_plain(name))
    if text in by_entity:
        return text
    local = phrase_key(_plain(name))
    for code in LANGUAGES[1:]:
        for _, english in language(code).names.get(local, ()):
            if key(english) in by_entity:
                return key(english)
    return text


def _attributes(head: str) -> frozenset[str]:
    """Keys of the attributes that the head of a column may mean."""
    bare = re.sub(r"\([^()]*\)", "", head)
    found = {key(bare), key(head)}
    for code in LANGUAGES:
        for text in {phrase_key(bare), phrase_key(head)} - {""}:
            meaning = language(code).meaning(text, count_words(text))
            if meaning is not None:
                found |= {key(each) for each in (*meaning.attributes, *meaning.implied[:1])}
    return frozenset(found - {""})


def _problem(cell: Cell, own: Sequence[Record], records: Sequence[Record]) -> str | None:
    """What is wrong with a cell; "" where it is right, None where nothing can be said."""
    if key(cell.text) in _UNKNOWN or _OTHER_UNITS.search(f"{cell.column} {cell.text}"):
        return None
    attributes = _attributes(cell.column)
    meant = [each for each in own if key(each.attribute) in attributes]
    if meant:
        if any(_says(cell, each) for each in meant):
            return ""
        if not _comparable(cell.text, meant[0]):
            return None
        there = meant[0]
        cited = f" [{there.id}]" if there.id else ""
        return (
            f"The table's row {cell.row} says {cell.column} = {cell.text!r}, but the source about "
            f"{there.entity} says {there.line}{cited}. Put the figure of that row there."
        )
    if any(_says(cell, each) for each in own):
        return ""
    others = [each for each in records if key(each.attribute) in attributes and each not in own]
    theirs = next((each for each in others if _says(cell, each) and _telling(cell.text)), None)
    if theirs is None:
        return None
    return (
        f"The table's row {cell.row} says {cell.column} = {cell.text!r}, but that is the figure of "
        f"{theirs.entity}, and no source says it of {cell.row}. Look it up, or write that it is "
        "unknown."
    )


def _telling(text: str) -> bool:
    """Long enough that it is not met by chance."""
    return len(re.sub(r"\W", "", text)) >= 4


def _comparable(text: str, record: Record) -> bool:
    """Whether cell and value are of one sort: numbers, or words. A rewording is no mistake that
    could be told here."""
    if record.number is None:
        words = key(text).split()
        return 0 < len(words) <= 6
    return _amount(text, "") is not None or not re.search(r"\d", text)


def _says(cell: Cell, record: Record) -> bool:
    """Whether a cell is a record's value, as people write values: grouped, rounded, with a unit."""
    text = _YEAR_BEHIND.sub("", cell.text)
    if record.number is not None:
        amount = _amount(text, cell.column)
        return amount is not None and amount.is_of(record.number)
    said, value = key(text), key(record.value)
    if said in words_of(record.value) or said == value:
        return True
    if _local_says(text, record.value):
        return True
    items = [key(re.sub(r"\(.*?\)", "", each)) for each in re.split(r"[,;/]| and ", text)]
    bare = f" {value} "
    return all(each and f" {each} " in bare for each in items)


def _local_says(text: str, value: str) -> bool:
    """Whether a word of another language is the value's: Schilling, Nairobi."""
    local = phrase_key(text)
    return any(
        f" {key(english)} " in f" {key(value)} "
        for code in LANGUAGES[1:]
        for _, english in language(code).names.get(local, ())
    )


@dataclass(frozen=True, slots=True)
class _Amount:
    """A number as a cell shows it. `slack`: how far off the value may be where it is shown in
    thousands or millions; else it is rounded to `decimals`, which may be negative."""

    number: Decimal
    decimals: int
    slack: Decimal | None = None

    def is_of(self, value: Decimal) -> bool:
        if self.slack is not None:
            return abs(self.number - value) <= self.slack
        step = Decimal(10) ** -self.decimals
        for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN):
            if (value / step).quantize(Decimal(1), rounding) * step == self.number:
                return True
        return False


def _amount(text: str, column: str) -> _Amount | None:
    match = _AMOUNT.match(_YEAR_BEHIND.sub("", text).strip())
    if match is None:
        return None
    digits = re.sub(r"['’   ]", "", match["number"])
    if re.fullmatch(r"[-−+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"[-−+]?\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|[-−+]?\d+,\d+", digits):
        digits = digits.replace(".", "").replace(",", ".")
    number, _ = read_value(digits.lstrip("+"))
    if number is None:
        return None
    scale = _scale(match["unit"]) or _scale(" ".join(re.findall(r"\(([^()]*)\)", column)))
    decimals = len(digits.partition(".")[2])
    if scale:
        factor = Decimal(10) ** scale
        return _Amount(number * factor, decimals, factor / Decimal(10) ** decimals / 2)
    whole = digits.lstrip("-−+")
    zeros = len(whole) - len(whole.rstrip("0")) if not decimals else 0
    rounded = zeros >= 3 and len(whole) - zeros >= 3  # 55,800,000
    return _Amount(number, -zeros if rounded else decimals)


def _scale(words: str) -> int:
    for each in re.findall(r"[^\W\d_]+", words.casefold()):
        if each in _SCALES:
            return _SCALES[each]
    return 0
