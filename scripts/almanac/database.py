"""Writes the almanac: one SQLite file, the same bytes for the same articles.

What a reader needs to know of the tables is in `perilune.search.almanac.tables`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from almanac.article import Article, Source
from perilune.search.almanac.attributes import read_attributes
from perilune.search.almanac.tables import KINDS, SCHEMA, How
from perilune.search.almanac.text import key

# Bytes of SQLite's header that differ from writer to writer: the change counter, and the version
# of the library with the counter at its last write. Source: sqlite.org/fileformat2.html, 1.3.
_CHANGING = ((24, 4), (92, 4), (96, 4))
_WRITER = (3_040_001).to_bytes(4, "big")


def write_almanac(path: Path, articles: Iterable[Article]) -> None:
    """Write the file anew. Raises `SystemExit` for an attribute that has no entry in the list."""
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("pragma page_size = 4096")
    database.execute("pragma journal_mode = off")
    database.executescript(SCHEMA)
    with database:
        _fill(database, list(articles))
    database.execute("insert into words(words) values ('optimize')")
    database.commit()
    database.execute("vacuum")
    database.execute("pragma optimize")
    database.close()
    _settle_header(path)


def _fill(database: sqlite3.Connection, articles: list[Article]) -> None:
    declared = {attribute.name: attribute for attribute in read_attributes()}
    used = {name for article in articles for name in article.facts}
    if unknown := sorted(used - set(declared)):
        raise SystemExit(f"attributes.toml has no {', '.join(unknown)}")
    attributes = {name: number for number, name in enumerate(declared, 1)}
    for name, number in attributes.items():
        database.execute(
            "insert into attributes values (?, ?, ?)", (number, name, declared[name].unit)
        )
    sources = sorted({fact.source for a in articles for fact in a.facts.values()}, key=_by_name)
    source_ids = {source: number for number, source in enumerate(sources, 1)}
    for source, number in source_ids.items():
        database.execute(
            "insert into sources values (?, ?, ?, ?, ?)",
            (number, source.name, source.year, source.package, source.licence),
        )
    reversed_names: set[str] = set()
    ordinals: dict[tuple[str, str], int] = {}
    for number, article in enumerate(articles, 1):
        place = (article.kind, key(article.name))
        ordinals[place] = ordinals.get(place, 0) + 1
        row = (
            number, KINDS.index(article.kind), article.name, article.weight, ordinals[place],
            article.summary,
        )  # fmt: skip
        database.execute("insert into articles values (?, ?, ?, ?, ?, ?)", row)
        ordered = sorted(article.facts.items(), key=lambda item: attributes[item[0]])
        for name, fact in ordered:
            database.execute(
                "insert into stored values (?, ?, ?, ?, ?)",
                (number, attributes[name], fact.value, source_ids[fact.source], fact.year),
            )
        for written, how in _names(article).items():
            database.execute("insert into names values (?, ?, ?)", (written, number, how))
            if how < How.OTHER and len(written) > 3 and article.kind != "word":
                reversed_names.add(written[::-1])
        said = [str(f.value) for _, f in ordered if isinstance(f.value, str)]
        aliases = sorted({*article.aliases, *article.codes})
        database.execute(
            "insert into words(rowid, name, body) values (?, ?, ?)",
            (number, " ".join([article.name, *aliases]), " ".join([article.summary, *said])),
        )
    for text in sorted(reversed_names):
        database.execute("insert into reversed_names values (?)", (text,))


def _names(article: Article) -> dict[str, int]:
    """Every key of an article with the strongest way in which it is its name."""
    found: dict[str, int] = {}
    ways = (
        (How.NAME, {article.name}),
        (How.ALIAS, article.aliases),
        (How.OTHER, article.other_names),
        (How.CODE, article.codes),
    )
    for how, names in ways:
        for name in names:
            if written := key(name):
                found.setdefault(written, how)
                if written.startswith("saint "):
                    found.setdefault("st " + written.removeprefix("saint "), max(how, How.ALIAS))
    return dict(sorted(found.items()))


def _by_name(source: Source) -> str:
    return source.name


def _settle_header(path: Path) -> None:
    with path.open("r+b") as file:
        for offset, length in _CHANGING:
            file.seek(offset)
            file.write(_WRITER if offset == 96 else (1).to_bytes(length, "big"))
