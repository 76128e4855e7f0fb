"""The almanac as a search engine: articles and single facts for a question, from one file."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from perilune.errors import ToolError, UsageError
from perilune.search.almanac.answering import Answering, Row
from perilune.search.almanac.attributes import Aliases
from perilune.search.almanac.entities import (
    Candidate,
    find_by_common_words,
    find_entities,
    find_misspelt,
)
from perilune.search.almanac.query import Query, Span, read_query
from perilune.search.almanac.reading import read
from perilune.search.almanac.tables import KINDS, How
from perilune.search.almanac.text import key, slug
from perilune.search.common_words import COMMON
from perilune.search.corpus import Document, Hit
from perilune.search.fts import every_token, joined

SCHEME = "almanac:"
PATH = Path(__file__).parents[2] / "assets" / "almanac" / "almanac.sqlite"

FREQUENT = 1000
"""A word that is in more articles than this is no good for ranking."""
_EXCERPT = 4  # facts of an article that a hit shows
_FIRST = 8  # facts of an article among which are those for its title and excerpt
_FACTS = (
    "select stored.attribute, attributes.name, stored.value, attributes.unit, "
    "coalesce(stored.year, sources.year), sources.name "
    "from stored join attributes on attributes.id = stored.attribute "
    "join sources on sources.id = stored.source where stored.article = ?"
)
LONGEST_READ = 20_000  # characters of a question
_KINDS_OF = (
    "select distinct articles.kind, attributes.name from stored join articles on "
    "articles.id = article join attributes on attributes.id = attribute"
)
_VALUES = (
    "select article, value from stored join attributes on attributes.id = attribute "
    "join articles on articles.id = article where attributes.name = ? "
    "order by articles.weight desc, article"
)
_MOST_READ = 200  # articles that are read for a decimal number
_ORDINAL = re.compile(r"[0-9]{1,9}")
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?!\.?\d)")
_MARGIN = 14
"""Entities that are this much less likely than the first are not asked for their facts."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One value. `str(fact)` is the line that a model reads."""

    address: str
    kind: str
    entity: str
    attribute: str
    value: int | float | str
    unit: str
    year: int
    source: str

    def __str__(self) -> str:
        return f"{self.entity}.{self.line}"

    @property
    def line(self) -> str:
        """Without the entity, as in its article."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.attribute} = {self.value}{unit} ({self.year}, {self.source})"


@dataclass(frozen=True, slots=True)
class Answered:
    """Facts that answer a question, in order; `notes` are short remarks on them ("Lyon: no"),
    `more` how many further facts would fit."""

    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    more: int = 0


class Almanac:
    """Read-only, and may be used from several threads. Raises `UsageError` for a missing file."""

    def __init__(self, path: Path = PATH) -> None:
        try:
            self._connection = sqlite3.connect(
                f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            self._aliases = Aliases(
                dict(self._connection.execute("select name, id from attributes"))
            )
        except sqlite3.Error as error:
            raise UsageError(
                f"{path} cannot be used as an almanac: {error}",
                remedy="Install the package again, or build it: scripts/build_almanac.py.",
            ) from None
        self._lock = threading.Lock()
        self._values: dict[str, dict[str, list[int]]] = {}
        kinds: dict[str, set[str]] = {}
        for kind, name in self._rows(_KINDS_OF):
            kinds.setdefault(name, set()).add(KINDS[kind])
        self._kinds_of = {name: frozenset(found) for name, found in kinds.items()}
        self._answering = Answering(self._rows, self._kinds_of, self._values_of)

    def __len__(self) -> int:
        return int(self._rows("select count(*) from articles")[0][0])

    def search(self, query: str, count: int = 8) -> list[Hit]:
        """The articles that a question is about, the likeliest first, then those whose text has
        its words."""
        asked, found = self._candidates(query)
        articles = [each.article for each in found][:count]
        if len(articles) < count:
            more = self._mentioned(asked, count) if found else self._match(asked, count, "OR")
            articles += [each for each in more if each not in articles]
        return [self._hit(article, asked.attributes) for article in articles[:count]]

    def facts(self, query: str, count: int = 8) -> list[Fact]:
        """The facts that a question asks for: "Chad area", "how many people live in Chad".

        Without an attribute in the question: the first facts of the entity.
        """
        asked, found = self._candidates(query)
        if not found:
            found = [Candidate(article, 0) for article in self._match(asked, 2, "OR")]
        likely = [each.article for each in found if each.score >= found[0].score - _MARGIN]
        known = [self._facts(article) for article in likely[: max(count, 4)]]
        wanted = asked.attributes
        facts = [facts_of[each] for facts_of in known for each in wanted if each in facts_of]
        if not facts:
            facts = [fact for facts_of in known for fact in facts_of.values()]
        return facts[:count]

    def answer(self, question: str) -> Answered:
        """The facts that a question of any sort asks for, in English, German, French, Spanish or
        Chinese: of one entity or several, ranked, along a chain, by value, with yes or no.

        Nothing where the tables of words do not tell what is asked. Takes any text.
        """
        reading = read(question, self._rows, self._kinds_of)
        found = self._answering.answer(reading, question[:LONGEST_READ])
        return Answered(self._told(found.rows), tuple(found.notes), found.more)

    def ranked(
        self, kind: str, attribute: str, *, least: bool = False, count: int = 5,
        country: str = "", continent: str = "",
    ) -> tuple[Fact, ...]:  # fmt: skip
        """The entities of a kind with the most of something, or the least; of cities and airports,
        those of a country. Countries are independent ones; territories are left out."""
        articles = self._answering.rankings.ordered(
            attribute, kind, least=least, count=count, country=country, continent=continent
        )
        return self._told([Row(article, attribute) for article in articles])

    def along(self, address: str, path: tuple[str, ...]) -> tuple[Fact, ...]:
        """The facts of a chain: ("country", "capital", "population") from a city. Nothing where a
        step is missing."""
        article = self._find(address)
        rows = self._answering.walk(article, path[:-1], list(path[-1:])) if article else []
        return self._told(rows)

    def can_answer(self, query: str) -> bool:
        """Whether a question names an attribute, and an entity that has it."""
        _, found = self._candidates(query)
        return bool(found) and found[0].able

    def asked_for(self, query: str) -> set[str]:
        """Names of the attributes that a question asks for, as `facts` understands it."""
        asked, _ = self._candidates(query)
        names = dict(self._rows("select id, name from attributes"))
        return {str(names[each]) for each in asked.attributes}

    def names_of(self, address: str) -> set[str]:
        """The keys of all names of an article, other spellings and languages among them, but for
        codes. Nothing where there is no such article."""
        article = self._find(address)
        statement = "select key from names where article = ? and how < ?"
        return {str(row[0]) for row in self._rows(statement, article or 0, int(How.CODE))}

    def meant_by(self, question: str) -> list[str]:
        """The addresses of the articles that a question is about, the likeliest first; none where
        it names none."""
        asked = read_query(question, self._aliases)
        return [
            self._address(each.article) for each in find_entities(asked, self._aliases, self._rows)
        ]

    def document(self, address: str) -> Document:
        """An article by its address, as text. Raises `ToolError` when there is none."""
        article = self._find(address)
        if article is None:
            raise ToolError(
                f"the almanac holds no {address}", remedy="Take one that `search` gave."
            )
        facts = list(self._facts(article).values())
        (summary,) = self._rows("select summary from articles where id = ?", article)[0]
        kind = self._row(article)[0]
        parts = [self._opening(kind, facts), summary, "\n".join(fact.line for fact in facts)]
        return Document(
            self._address(article), self._title(article, facts), "\n\n".join(filter(None, parts))
        )

    def articles(self, kind: str | None = None) -> Iterable[str]:
        """The addresses of all articles, or those of a kind: country, city, element, airport,
        word."""
        rows = self._rows("select kind, name, ordinal from articles order by id")
        return [_address(KINDS[k], name, n) for k, name, n in rows if kind in (None, KINDS[k])]

    def well_known(self, kind: str, weight: int = 0) -> list[str]:
        """The addresses of a kind's articles of at least this weight (0 to 100) that are meant
        when their name is said: no article of that name has more weight."""
        meant: dict[str, tuple[str, str, int]] = {}
        rows = self._rows("select kind, name, ordinal, weight from articles order by weight, -id")
        heavy = set()
        for number, name, ordinal, its_weight in rows:
            meant[name] = (KINDS[number], name, ordinal)
            if its_weight >= weight:
                heavy.add(name)
        found = [each for each in meant.values() if each[0] == kind and each[1] in heavy]
        return sorted(_address(*each) for each in found)

    def facts_of(self, address: str) -> list[Fact]:
        """All facts of an article. Raises `ToolError` when there is none."""
        article = self._find(address)
        if article is None:
            raise ToolError(f"the almanac holds no {address}")
        return list(self._facts(article).values())

    def close(self) -> None:
        self._connection.close()

    # --- finding ---

    def _candidates(self, text: str) -> tuple[Query, list[Candidate]]:
        asked = read_query(text, self._aliases)
        found = find_entities(asked, self._aliases, self._rows)
        if asked.numbers and not any(each.able for each in found):
            found = self._by_value(asked) + found
        if not found and not all(map(asked.says_nothing, range(len(asked.words)))):
            found = self._by_text(asked) or find_misspelt(asked, self._rows)
        return asked, found or find_by_common_words(asked, self._rows)

    def _by_value(self, asked: Query) -> list[Candidate]:
        """Articles that have a number of the question as a value: of what is asked for, or, where
        nothing is, of anything, if it is a decimal number."""
        wanted = asked.attributes
        numbers = [each for each in asked.numbers if wanted or each % 1]
        if not numbers:
            return []
        marks = ", ".join("?" * len(numbers))  # nothing but question marks
        statement = (
            "select article, attribute from stored join articles on articles.id = article "  # noqa: S608
            f"where value in ({marks}) order by weight desc, article limit ?"
        )
        rows = [
            (article, attribute)
            for article, attribute in self._rows(statement, *numbers, _MOST_READ)
            if not wanted or attribute in wanted
        ]
        if not wanted:
            asked.named.append((Span(0, 0, ""), list(dict.fromkeys(row[1] for row in rows))))
        return [
            Candidate(article, 0, bool(wanted)) for article in dict.fromkeys(r[0] for r in rows)
        ]

    def _by_text(self, asked: Query) -> list[Candidate]:
        """Articles whose names or texts have all the words; first those that can answer."""
        found = self._match(asked, 20, "AND")
        able = [each for each in found if set(asked.attributes) & self._facts(each).keys()]
        ranked = [*able, *(each for each in found if each not in able)]
        return [Candidate(article, -place, article in able) for place, article in enumerate(ranked)]

    def _match(self, asked: Query, count: int, operator: str) -> list[int]:
        """Articles by the words of their text, ranked by BM25 (sqlite.org/fts5.html).

        Words that stand in many articles say little, and ranking all of those takes long.
        """
        words = [word for word in self._telling(asked) if every_token(word)]
        rare = [word for word in words if not self._is_frequent(word)]
        expression = joined(rare or words[:1], operator)
        statement = (
            "select rowid from words where words match ? order by bm25(words, 6.0, 1.0) limit ?"
        )
        return self._matching(statement, expression, words, count)

    def _mentioned(self, asked: Query, count: int) -> list[int]:
        """Articles that have all the words, in the order of the almanac."""
        words = self._telling(asked)
        statement = "select rowid from words where words match ? limit ?"
        return self._matching(statement, joined(words, "AND"), words, count)

    def _matching(self, statement: str, expression: str, words: list[str], count: int) -> list[int]:
        """The rows of a query; first those that really have its decimal numbers.

        The index has no positions: 3.5 is looked for as 3 and 5, and read in the articles found.
        """
        if not expression:
            return []
        numbers = [word for word in words if DECIMAL.fullmatch(word)]
        most = max(count, _MOST_READ) if numbers else count
        found = [row[0] for row in self._rows(statement, expression, most)]
        if numbers:
            having = {each for each in found if self._has_numbers(each, numbers)}
            found.sort(key=lambda each: each not in having)
        return found[:count]

    def _has_numbers(self, article: int, numbers: list[str]) -> bool:
        (summary,) = self._rows("select summary from articles where id = ?", article)[0]
        values = " ".join(str(fact.value) for fact in self._facts(article).values())
        stated = set(DECIMAL.findall(f"{summary} {values}".replace(",", "")))
        return stated.issuperset(numbers)

    def _telling(self, asked: Query) -> list[str]:
        """The words that are not common and name no attribute, or else all that are not common."""
        words = [word for place, word in enumerate(asked.words) if not asked.says_nothing(place)]
        words = words or [word for word in asked.words if word not in COMMON] or asked.words
        return list(dict.fromkeys(words))

    def _is_frequent(self, word: str) -> bool:
        statement = "select 1 from words where words match ? limit 1 offset ?"
        return bool(self._rows(statement, every_token(word), FREQUENT))

    def _find(self, address: str) -> int | None:
        kind, _, rest = address.removeprefix(SCHEME).partition("/")
        name, _, ordinal = rest.partition("~")
        if kind not in KINDS or not _ORDINAL.fullmatch(ordinal or "1"):
            return None
        rows = self._rows(
            "select articles.id from names join articles on articles.id = names.article "
            "where names.key = ? and names.how = 0 and articles.kind = ? and articles.ordinal = ?",
            key(name), KINDS.index(kind), int(ordinal or 1),
        )  # fmt: skip
        return int(rows[0][0]) if rows else None

    def _told(self, rows: Iterable[Row]) -> tuple[Fact, ...]:
        known: dict[int, dict[str, Fact]] = {}
        for row in rows:
            if row.article not in known:
                facts = self._facts(row.article).values()
                known[row.article] = {fact.attribute: fact for fact in facts}
        return tuple(known[row.article][row.attribute] for row in rows)

    def _values_of(self, attribute: str) -> dict[str, list[int]]:
        """Key of a value -> the articles that have it, the weightier first."""
        if attribute not in self._values:
            made: dict[str, list[int]] = {}
            for article, value in self._rows(_VALUES, attribute):
                made.setdefault(key(str(value)), []).append(article)
            self._values[attribute] = made
        return self._values[attribute]

    # --- showing ---

    def _hit(self, article: int, attributes: list[int]) -> Hit:
        facts = self._facts(article, first=_FIRST)
        first = list(self._facts(article, only=attributes).values()) if attributes else []
        rest = [fact for fact in facts.values() if fact not in first]
        excerpt = "; ".join(fact.line for fact in [*first, *rest][: max(_EXCERPT, len(first))])
        return Hit(self._title(article, facts.values()), self._address(article), excerpt)

    def _title(self, article: int, known: Iterable[Fact]) -> str:
        kind, name, _ = self._row(article)
        if kind in ("country", "element"):
            return f"{name} ({kind})"
        if kind == "word":
            return f"{name} (word)"
        facts = {fact.attribute: fact.value for fact in known}
        where = [str(facts[each]) for each in ("region", "country") if each in facts]
        return ", ".join([name, *where])

    def _opening(self, kind: str, facts: list[Fact]) -> str:
        entity = facts[0].entity if facts else ""
        where = next((str(f.value) for f in facts if f.attribute == "country"), "")
        within = f" in {where}" if where else ""
        return {
            "country": "", "word": "", "city": f"{entity} is a city{within}.",
            "element": f"{entity} is a chemical element.",
            "airport": f"{entity} is an airport{within}.",
        }[kind]  # fmt: skip

    def _address(self, article: int) -> str:
        return _address(*self._row(article))

    def _row(self, article: int) -> tuple[str, str, int]:
        """Kind, name, ordinal."""
        statement = "select kind, name, ordinal from articles where id = ?"
        kind, name, ordinal = self._rows(statement, article)[0]
        return KINDS[kind], name, ordinal

    def _facts(self, article: int, *, only: Iterable[int] = (), first: int = -1) -> dict[int, Fact]:
        """Facts of an article by attribute id, in the order of an article: all, those of some
        attributes, or the first few."""
        numbers = ", ".join(str(int(each)) for each in only)
        chosen = f"and stored.attribute in ({numbers})" if numbers else ""
        rows = self._rows(f"{_FACTS} {chosen} order by stored.attribute limit ?", article, first)
        kind, name, ordinal = self._row(article)
        address = _address(kind, name, ordinal)
        return {row[0]: Fact(address, kind, name, *row[1:]) for row in rows}

    # --- the file ---

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def _address(kind: str, name: str, ordinal: int) -> str:
    return f"{SCHEME}{kind}/{slug(name)}" + (f"~{ordinal}" if ordinal > 1 else "")


@lru_cache(maxsize=1)
def open_almanac() -> Almanac:
    """The almanac of the package, opened once."""
    return Almanac()
