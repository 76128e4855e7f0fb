"""What a run was told, as records: an entity, an attribute of it, its value, unit and year.

They are read off what tools gave: lines of `lookup` (`Niger.area = 1267000 km2 (2025) [ev:cf5a]`),
articles whose title is the entity (`area = 1267000 km2 (2025, CIA World Factbook)`), results of
`search`, tables in Markdown, CSV and JSON objects with a name.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from perilune.agent.checks.check import ECHOES, Proposal, plain_text
from perilune.search.almanac.text import key

_LINE = re.compile(
    r"^(?P<entity>[^=\n]{1,120}?)\.(?P<attribute>[^\W\d_][^=.\n]{0,60}?) = (?P<rest>.+)$", re.M
)
_OF_TITLE = re.compile(
    r"(?:^|(?<=; )|(?<=   ))(?P<attribute>[^\W\d_][^=.:\n;]{0,60}?) = (?P<rest>[^;\n]+)", re.M
)
_SAID_BY = re.compile(r"^(?P<by>.*\S): +(?P<entity>\S.*)$")
"""`Futozis Atlas 1964: Romanor.founded = 1712`: who says it, and of which entity."""
_REST = re.compile(
    r"^(?P<value>.*?)(?: \((?P<year>\d{3,4})(?:, (?P<source>[^()]*))?\))?(?:, (?P<by>[^,\[\]]+))?"
    r"(?: \[(?P<id>ev:[0-9a-f]+)\])?$"
)
_NUMBER = re.compile(
    r"^(?P<number>[-−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?)(?P<unit>\s?[^\d\s].*)?$"
)
_HIT = re.compile(r"^\d+\. (?P<title>.+)\n   (?P<address>\S+)\n   (?P<excerpt>.*)$", re.M)
_KIND = re.compile(r" \((?:country|element|word|city|airport)\)$")
_NAMING = (
    "name",
    "title",
    "entity",
    "city",
    "country",
    "town",
    "place",
    "item",
    "product",
    "id",
    "key",
)
_MOST = 5000
"""Records of a run; what comes behind is not read."""


@dataclass(frozen=True, slots=True)
class Record:
    """One value. `number` where it begins with one, `unit` what stands behind that; `id` the source
    that was kept, `address` where it came from, `query` what was asked of the tool."""

    entity: str
    attribute: str
    value: str
    number: Decimal | None = None
    unit: str = ""
    year: str = ""
    id: str = ""
    address: str = ""
    query: str = ""

    @property
    def line(self) -> str:
        """As it is said to the model."""
        year = f" ({self.year})" if self.year else ""
        return f"{self.entity}.{self.attribute} = {self.value}{year}"


def records_of(proposal: Proposal) -> list[Record]:
    """All records of a run, those of its kept sources and those of its tools' outputs."""
    found: dict[Record, None] = {}
    kept = proposal.state.evidence
    for each in kept.values():
        try:
            text = proposal.evidence.text(each.id)
        except KeyError:
            continue
        found.update(dict.fromkeys(of_source(text, each.title, each.id, each.source)))
    addresses = {each.id: each.source for each in kept.values()}
    for state in (proposal.state, *proposal.others):
        queries = {
            str(call["id"]): _query(call["function"]["arguments"])
            for message in state.messages
            for call in message.get("tool_calls") or ()
        }
        for message, origin in zip(state.messages, state.origins, strict=True):
            name = str(message.get("name", ""))
            if origin != "tool" or name in ECHOES or name == "python":
                continue
            text = plain_text(message.get("content") or "")
            query = queries.get(str(message.get("tool_call_id", "")), "")
            found.update(dict.fromkeys(of_output(text, query, addresses)))
            if len(found) > _MOST:
                break
    return list(found)


def _query(arguments: str) -> str:
    try:
        read = json.loads(arguments or "{}")
    except ValueError:
        return ""
    return str(read.get("query", "")) if isinstance(read, dict) else ""


def of_source(text: str, title: str, id_: str, address: str) -> Iterator[Record]:
    """The records of a kept source: its lines, with the title as their entity where they name
    none."""
    entity = _KIND.sub("", title)
    for match in _LINE.finditer(text):
        yield _line(match, id_, address)
    if entity:
        for line in text.splitlines():
            found = re.match(r"(?P<attribute>[^\W\d_][^=.:\n]{0,60}?) = (?P<rest>.+)$", line)
            if found and _is_attribute(found, entity):
                yield _record(entity, found["attribute"], found["rest"], id_, address)
    yield from _tables(text, id_, address)


def of_output(text: str, query: str, addresses: dict[str, str]) -> Iterator[Record]:
    """The records of a tool's output. `addresses`: of the sources, by their ids."""
    for match in _LINE.finditer(text):
        record = _line(match, query=query)
        if record.id:
            record = _with_address(record, addresses.get(record.id, ""))
        yield record
    for hit in _HIT.finditer(text):
        title = hit["title"]
        entity = _KIND.sub("", title)
        excerpt = hit["excerpt"]
        if f"{entity}." in excerpt:
            # The lines of a page, put one behind the other: `Tavor = river Tavor.length = 100 km`.
            excerpt = re.sub(rf"\s+(?={re.escape(entity)}\.)", "\n", excerpt)
            for match in _LINE.finditer(excerpt):
                if " = " not in match["rest"] and not match["rest"].endswith("..."):
                    yield _line(match, address=hit["address"], query=query)
        for match in _OF_TITLE.finditer(excerpt):
            if not _is_attribute(match, entity):
                continue
            entity_ = entity.split(", ")[0] if hit["address"].startswith("almanac:") else entity
            yield _record(
                entity_, match["attribute"], match["rest"], address=hit["address"], query=query
            )
    yield from _tables(text, "", "")


def _is_attribute(match: re.Match[str], entity: str) -> bool:
    """Whether what stands before the sign is an attribute, and not the entity itself (`Tavor =
    river` says what it is), and what stands behind it one value."""
    return key(match["attribute"]) != key(entity) and " = " not in match["rest"]


def _line(match: re.Match[str], id_: str = "", address: str = "", query: str = "") -> Record:
    """A line that names its entity, and perhaps before that who says it, and when."""
    record = _record(match["entity"], match["attribute"], match["rest"], id_, address, query)
    said = _SAID_BY.match(record.entity)
    if said is None:
        return record
    year = re.search(r"(?<!\d)(\d{4})$", said["by"])
    return replace(record, entity=said["entity"], year=record.year or (year[1] if year else ""))


def _with_address(record: Record, address: str) -> Record:
    return replace(record, address=address)


def _record(
    entity: str, attribute: str, rest: str, id_: str = "", address: str = "", query: str = ""
) -> Record:
    match = _REST.match(rest.strip())
    value = match["value"].strip() if match else rest.strip()
    year = (match["year"] if match else "") or ""
    found = (match["id"] if match else "") or id_
    if match and match["by"] and not (match["year"] or match["id"]):
        value = rest.strip()  # a comma of the value, and no source behind it
    elif match and match["by"] and not match["year"]:
        value = f"{value}, {match['by']}"
    return make(entity.strip(), attribute.strip(), value, year, found, address, query)


def make(
    entity: str,
    attribute: str,
    value: str,
    year: str = "",
    id_: str = "",
    address: str = "",
    query: str = "",
) -> Record:
    """A record with its value read."""
    number, unit = read_value(value)
    return Record(entity, attribute, value, number, unit, year, id_, address, query)


def read_value(value: str) -> tuple[Decimal | None, str]:
    """The number that a value is, and its unit; None for words."""
    match = _NUMBER.match(value.strip())
    if not match or re.match(r"[\-:/.]\d|(?!US dollars)[A-Z][a-z]", (match["unit"] or "").strip()):
        return None, ""
    try:
        number = Decimal(match["number"].replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None, ""
    unit = (match["unit"] or "").strip()
    # "26 April 1964 (...)" is a date, and no 26 of something.
    return (None, "") if len(unit.split()) > 3 or re.search(r"\d{3}", unit) else (number, unit)


# --- tables ---------------------------------------------------------------------------------------


def _tables(text: str, id_: str, address: str) -> Iterator[Record]:
    for header, rows in (*_markdown(text), *_comma(text)):
        for row in rows:
            for name, cell in list(zip(header, row, strict=False))[1:]:
                if cell.strip() and name.strip():
                    yield make(row[0].strip(), name.strip(), cell.strip(), "", id_, address)
    yield from _objects(text, id_, address)


def tables_in(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The tables of a text, Markdown or comma-separated: a header and its rows."""
    yield from _markdown(text)
    yield from _comma(text)


def objects_in(text: str) -> Iterator[Record]:
    """The values of JSON objects that have a name."""
    yield from _objects(text, "", "")


def _markdown(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    block: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.strip().startswith("|"):
            block.append([each.strip() for each in line.strip().strip("|").split("|")])
        elif block:
            if len(block) > 2 and all(re.fullmatch(r":?-+:?", each) for each in block[1]):
                yield block[0], block[2:]
            block = []


def _comma(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    lines = [each for each in text.strip().splitlines() if each.strip()]
    if len(lines) < 2 or len(lines) > _MOST or lines[0].count(",") < 1 or " = " in lines[0]:
        return
    header, *rows = list(csv.reader(io.StringIO("\n".join(lines))))
    if all(len(row) == len(header) for row in rows) and all(
        re.fullmatch(r"[^\W\d][\w ()/%-]*", name.strip()) for name in header
    ):
        yield header, rows


def _objects(text: str, id_: str, address: str) -> Iterator[Record]:
    text = text.strip()
    if not text.startswith(("{", "[")) or len(text) > 2_000_000:
        return
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return
    for each in _walk(read, 0):
        field = next((name for name in _NAMING if isinstance(each.get(name), str)), None)
        if field is None:
            continue
        for name, value in each.items():
            if (
                name != field
                and isinstance(value, str | int | float)
                and not isinstance(value, bool)
            ):
                yield make(
                    str(each[field]), str(name).replace("_", " "), str(value), "", id_, address
                )


def _walk(read: Any, depth: int) -> Iterable[dict[str, Any]]:
    if depth > 6:
        return
    if isinstance(read, dict):
        yield read
        for each in read.values():
            yield from _walk(each, depth + 1)
    elif isinstance(read, list):
        for each in read[:_MOST]:
            yield from _walk(each, depth + 1)


# --- values ---------------------------------------------------------------------------------------


def same_words(record: Record, said: str) -> bool:
    """Whether words are a record's value: all of it, or its first items where it is a list."""
    return said in words_of(record.value)


def words_of(value: str) -> frozenset[str]:
    """The keys that a value may be written by: whole, without what stands in brackets, without the
    mark of a cut, and as the first items of its list."""
    bare = re.sub(r"\s*\([^()]*\)?", "", value)
    keys = set()
    for each in (value, bare):
        each = re.sub(r"(?:, )?\.\.\.$", "", each).strip()
        keys.add(key(each))
        items = re.split(r"\s*[,;]\s*", each)
        keys |= {key(", ".join(items[:count])) for count in range(1, len(items) + 1)}
        keys |= {key(item) for item in items}
    return frozenset(keys - {""})


def about(records: Sequence[Record], entity: str) -> list[Record]:
    wanted = key(entity)
    return [each for each in records if key(each.entity) == wanted]
