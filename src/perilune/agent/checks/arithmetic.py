"""What a question's sum, difference, comparison or count comes to, by the records.

Only where each entity that the question names has exactly one value for the same attribute (or one
entity has several, by source), and the words say what is to be done with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from perilune.agent.checks.question import Asked, attributes_in, content_words, of_years, related
from perilune.agent.checks.records import Record
from perilune.search.almanac.text import key


def values_of(asked: Asked, records: Sequence[Record]) -> dict[str, Record] | None:
    """The one record of each entity that the question names, all of the same attribute; None where
    there is none, or more than one choice."""
    names = [each for each in asked.names if each not in asked.excepted]
    if len(names) < 2:
        return None
    by_attribute: dict[str, dict[str, Record]] = {}
    doubtful: set[str] = set()
    for each in records:
        name = next((name for name in names if key(name) == key(each.entity)), None)
        if name is None or each.number is None:
            continue
        row = by_attribute.setdefault(each.attribute, {})
        if name in row and row[name].number != each.number:
            doubtful.add(each.attribute)
        row[name] = each
    whole = {
        attribute: row
        for attribute, row in by_attribute.items()
        if len(row) == len(names) and attribute not in doubtful
    }
    if len(whole) > 1:
        said = content_words(asked.text)
        whole = {
            attribute: row
            for attribute, row in whole.items()
            if attribute in asked.attributes or related(content_words(attribute), said)
        }
    if len(whole) != 1:
        return None
    ((attribute, row),) = whole.items()
    if asked.sure and attribute not in asked.attributes and not _means(attribute, asked):
        return None
    return {name: row[name] for name in names}


def _means(attribute: str, asked: Asked) -> bool:
    found, _ = attributes_in(attribute, ())
    return bool(found & asked.attributes)


def expected_number(
    asked: Asked, records: Sequence[Record]
) -> tuple[list[Decimal], str, str] | None:
    """The numbers that are right, how they come about, and their unit; None where the question does
    not tell."""
    if asked.operation not in ("sum", "mean", "difference", "ratio", "count"):
        return None
    rows = values_of(asked, records)
    if rows is None and asked.operation == "difference" and len(asked.names) == 1:
        rows = _by_source(asked, records)
    if rows is None or len(rows) < 2:
        return None
    numbers = [each.number for each in rows.values() if each.number is not None]
    unit = next(iter(rows.values())).unit
    lines = "; ".join(each.line for each in rows.values())
    if asked.operation == "count":
        limit = Decimal(asked.limit)
        count = sum(each > limit for each in numbers)
        return [Decimal(count)], f"of {lines}, {count} are above {limit}", ""
    if asked.operation == "sum":
        return [sum(numbers, Decimal(0))], f"the sum of {lines} is {sum(numbers)}", unit
    if asked.operation == "mean":
        mean = sum(numbers, Decimal(0)) / len(numbers)
        return [mean], f"the mean of {lines} is {mean:.2f}", unit
    if asked.operation == "difference":
        gap = max(numbers) - min(numbers)
        return [gap, -gap], f"the difference in {lines} is {gap}", unit
    return _ratio(asked, rows, lines)


def _by_source(asked: Asked, records: Sequence[Record]) -> dict[str, Record] | None:
    """The values that several sources give for one attribute of the one entity."""
    if "source" not in asked.text.casefold():
        return None
    own = [r for r in records if key(r.entity) == key(asked.names[0]) and r.number is not None]
    if len({each.attribute for each in own}) != 1:
        return None
    return {f"{each.year} {each.id} {each.value}": each for each in own}


def _ratio(
    asked: Asked, rows: dict[str, Record], lines: str
) -> tuple[list[Decimal], str, str] | None:
    if len(rows) != 2:
        return None
    first, second = (each.number for each in rows.values())
    if not first or not second:
        return None
    low = asked.text.casefold()
    if re.search(r"\bhow many times the .+ is the\b", low):
        above, below = second, first
    elif re.search(r"\bdivide\b|\bdivided by\b|\bratio of\b", low):
        above, below = first, second
    else:
        return [first / second, second / first], f"the ratio of {lines} is {first / second:.4g}", ""
    share = above / below
    return [share], f"the ratio of {lines} is {share:.4g}", ""


def expected_names(asked: Asked, records: Sequence[Record]) -> tuple[list[str], str, bool] | None:
    """The names that are right, why, and whether their order counts; None where it is not told."""
    if asked.operation in ("pick", "second", "order", "above"):
        rows = values_of(asked, records)
        if rows is None:
            return None
        lines = "; ".join(each.line for each in rows.values())
        if asked.operation == "above":
            limit = Decimal(asked.limit)
            above = [name for name, row in rows.items() if (row.number or 0) > limit]
            return above, f"above {limit} are {', '.join(above) or 'none'} ({lines})", False
        if asked.down is None:
            return None
        down = asked.down
        unit = next(iter(rows.values())).unit
        if of_years(asked.text) and unit:
            return None
        if re.search(r"\b(?:old|young)", asked.text, re.I) and unit:
            return None
        ranked = sorted(rows, key=lambda name: rows[name].number or 0, reverse=not down)
        numbers = [rows[name].number for name in ranked]
        if asked.operation == "order":
            if len(set(numbers)) < len(numbers):
                return None
            return ranked, f"the order is {', '.join(ranked)} ({lines})", True
        place = 1 if asked.operation == "second" else 0
        if numbers.count(numbers[place]) > 1:
            return None
        word = "smallest" if down else "largest"
        return [ranked[place]], f"the {'second ' * place}{word} is {ranked[place]} ({lines})", False
    return _of_category(asked, records)


def _of_category(asked: Asked, records: Sequence[Record]) -> tuple[list[str], str, bool] | None:
    """Those of the named that have the value which the question names."""
    if (
        len(asked.names) < 2
        or asked.operation
        or not re.search(r"\b(?:which of|list those|those of|keep only)\b", asked.text, re.I)
    ):
        return None
    rows: dict[str, Record] = {}
    for each in records:
        name = next((name for name in asked.names if key(name) == key(each.entity)), None)
        if name is not None:
            if name in rows and rows[name].attribute != each.attribute:
                return None
            rows[name] = each
    if len(rows) != len(asked.names) or len({each.attribute for each in rows.values()}) != 1:
        return None
    said = f" {key(asked.text)} "
    having = [name for name, row in rows.items() if f" {key(row.value)} " in said]
    if not having or any(row.number is not None for row in rows.values()):
        return None
    lines = "; ".join(each.line for each in rows.values())
    return having, f"these have it: {', '.join(having)} ({lines})", False
