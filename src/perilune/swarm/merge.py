"""Joins the tables of several reports: duplicates fall together, contradictions are listed.

A table is Markdown, JSON (a list of row objects, or an object of row objects), or facts of the form
`Row.column = value`. The first column names the row. Rows and columns are the same when they are
equal but for case, spaces and Markdown marks; values also when only the way of writing a number
differs ("1,200" and "1200").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_CONFLICTS = 50
"""Conflicts that the text lists; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as one source gave it."""

    row: str
    column: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A cell with different values; each with the sources that gave it, the most backed first."""

    row: str
    column: str
    values: list[tuple[str, list[str]]]


@dataclass(slots=True)
class Merged:
    """`rows[row][column]` is the value that most sources gave (the first, of equals)."""

    head: str = ""
    columns: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    duplicates: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    without_table: list[str] = field(default_factory=list)

    def table(self) -> str:
        """As Markdown; a cell that no source filled is empty."""
        lines = [[self.head or "name", *self.columns], ["---"] * (len(self.columns) + 1)]
        lines += [
            [row, *(cells.get(column, "") for column in self.columns)]
            for row, cells in self.rows.items()
        ]
        return "\n".join(f"| {' | '.join(each)} |" for each in lines)

    def text(self) -> str:
        """The table with what is to be said about it."""
        empty = sum(
            not cells.get(column) for cells in self.rows.values() for column in self.columns
        )
        said = [
            self.table(),
            f"{len(self.rows)} rows; {self.duplicates} duplicate cells fell together; "
            f"{empty} cells are empty; {len(self.conflicts)} conflicts.",
        ]
        for each in self.conflicts[:MOST_CONFLICTS]:
            values = "; ".join(
                f"{value!r} from {', '.join(sources)}" for value, sources in each.values
            )
            said.append(f"conflict: {each.row}, {each.column}: {values}")
        if len(self.conflicts) > MOST_CONFLICTS:
            said.append(f"and {len(self.conflicts) - MOST_CONFLICTS} more conflicts")
        if self.without_table:
            said.append(f"no table in: {', '.join(self.without_table)}")
        return "\n".join(said)


def merge(reports: Iterable[tuple[str, str]]) -> Merged:
    """Join the tables of `(source, text)` reports, in order."""
    merged = Merged()
    given: dict[tuple[str, str], list[Cell]] = {}
    rows: dict[str, str] = {}
    columns: dict[str, str] = {}
    for source, text in reports:
        head, cells = read_cells(text, source)
        merged.head = merged.head or head
        if not cells:
            merged.without_table.append(source)
        for cell in cells:
            row, column = _same(cell.row), _same(cell.column)
            rows.setdefault(row, cell.row)
            columns.setdefault(column, cell.column)
            given.setdefault((row, column), []).append(cell)
    merged.columns = list(columns.values())
    merged.rows = {name: {} for name in rows.values()}
    for (row, column), cells in given.items():
        values = _by_value(cells)
        merged.rows[rows[row]][columns[column]] = values[0][0]
        merged.duplicates += len(cells) - len(values)
        if len(values) > 1:
            merged.conflicts.append(Conflict(rows[row], columns[column], values))
    return merged


def read_cells(text: str, source: str) -> tuple[str, list[Cell]]:
    """`(head of the row column, cells)` of all tables in a text; empty cells are left out."""
    found = _from_json(text)
    if found is None:
        found = _from_markdown(text)
    if not found[1]:
        found = "", _from_facts(text)
    head, cells = found
    return head, [Cell(row, column, value, source) for row, column, value in cells if value]


Cells = list[tuple[str, str, str]]


def _from_markdown(text: str) -> tuple[str, Cells]:
    cells: Cells = []
    first = ""
    head: list[str] = []
    previous: list[str] = []
    for line in text.splitlines():
        row = _row_of(line)
        if not row:
            head, previous = [], []
        elif all(re.fullmatch(r":?-+:?", each) for each in row):
            head = previous
            first = first or (head[0] if head else "")
        elif head:
            # A row that is cut short, or too long, keeps what it has.
            cells += [(row[0], n, v) for n, v in zip(head[1:], row[1:], strict=False) if row[0]]
        previous = row
    return first, cells


def _row_of(line: str) -> list[str]:
    line = line.strip()
    if line.count("|") < 2 and not line.startswith("|"):
        return []
    parts = re.split(r"(?<!\\)\|", line.removeprefix("|").removesuffix("|"))
    return [_plain(each) for each in parts]


def _from_json(text: str) -> tuple[str, Cells] | None:
    fenced = re.search(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    body = (fenced[1] if fenced else text).strip()
    if body[:1] not in ("[", "{"):
        return None
    try:
        data = json.loads(body)
    except ValueError:
        return None
    cells: Cells = []
    head = ""
    if isinstance(data, dict):
        data = [{"": name, **row} for name, row in data.items() if isinstance(row, dict)]
    for row in data if isinstance(data, list) else []:
        if isinstance(row, dict) and row:
            (name_head, name), *rest = row.items()
            head = head or str(name_head)
            cells += [(_word(name), str(column), _word(value)) for column, value in rest]
    return head, cells


def _from_facts(text: str) -> Cells:
    cells: Cells = []
    for part in re.split(r"[\n;]", text):
        left, equals, value = part.partition("=")
        row, dot, column = left.rpartition(".")
        if equals and dot and row.strip() and column.strip():
            cells.append((_plain(row), _plain(column), _plain(value)))
    return cells


def _word(value: Any) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text: str) -> str:
    return re.sub(r"[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}(?=\s|$)", "", text).strip(" \t\\")


def _same(text: str) -> str:
    """A name in comparable form."""
    return " ".join(re.sub(r"[*_`]", " ", text).split()).casefold()


def _same_value(text: str) -> str:
    return re.sub(r"(?<=\d)[,\u202f\u00a0](?=\d{3}\b)", "", _same(text)).rstrip(".")


def _by_value(cells: Sequence[Cell]) -> list[tuple[str, list[str]]]:
    """The different values with their sources, the most backed first, else in order."""
    values: dict[str, tuple[str, list[str]]] = {}
    for cell in cells:
        _, sources = values.setdefault(_same_value(cell.value), (cell.value, []))
        if cell.source not in sources:
            sources.append(cell.source)
    return sorted(values.values(), key=lambda each: -len(each[1]))
