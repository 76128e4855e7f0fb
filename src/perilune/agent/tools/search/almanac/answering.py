"""The facts that answer a reading: of one entity, of several, in order, along a chain, by value."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from perilune.agent.tools.search.almanac.ranking import Rankings
from perilune.agent.tools.search.almanac.reading import Named, Reading, Rows
from perilune.agent.tools.search.almanac.tables import KINDS
from perilune.agent.tools.search.almanac.text import key

Value = int | float | str
Attributes = dict[str, Value]

MOST_RANKED: Final = 20
USUAL_RANKED: Final = 5
MOST_SUBJECTS: Final = 14
MOST_COLUMNS: Final = 6
MOST_OF_A_VALUE: Final = 12
WORD_ATTRIBUTES: Final = frozenset(
    ("part of speech", "definition", "second definition", "kind of", "synonyms", "antonym",
     "example")
)  # fmt: skip
LINKS: Final = ("country", "capital", "city", "discovery country", "capital of")
PATHS: Final = {
    "country": ((), ("capital",)),
    "city": ((), ("country",), ("country", "capital")),
    "airport": ((), ("city",), ("country",), ("city", "country"), ("country", "capital"),
                ("city", "country", "capital")),
    "element": ((), ("discovery country",), ("discovery country", "capital")),
}  # fmt: skip
"""Along which attributes a question may go on from an entity of a kind."""
_LINK_KIND: Final = {"country": "country", "capital": "city", "city": "city",
                     "discovery country": "country", "capital of": "country",
                     "antonym": "word"}  # fmt: skip
WEAK: Final = frozenset(
    ("population", "area", "location", "country", "city", "GDP", "airports", "region",
     "agricultural products", "category", "symbol", "discovery country", "elevation")
)  # fmt: skip
"""Attributes whose words are often said beside what is asked for: people, land, economy, where."""
_CODES: Final = {"element": ("symbol",), "airport": ("IATA code", "ICAO code"),
                 "country": ("ISO code", "ISO-3 code"), "city": ()}  # fmt: skip
_DISCOVERY: Final = frozenset(("discoverers", "discovery year", "discovery country"))
_TABLE = re.compile(
    r"\b(?:tab(?:le|ular|elle|leau|la|ulate)\w*|cuadro|columns?|cols?|spalten|colonnes)\b|表|一栏"
)
_DOMAIN = re.compile(r"(?<![A-Za-z0-9])\.[a-z]{2}(?![A-Za-z0-9.])")
_DIALLED = re.compile(r"(?<![A-Za-z0-9])\+\d{1,3}(?:-\d{3})?(?!\d)")
_ABOUT_HEIGHT = re.compile(
    r"\b(?:feet|foot|ft|pies|fuss|fuß|pieds|met(?:re|er|ro)s?|mètres?|m|altitude|hauteur|hoch|höhe|high|tall|height|elevation|altura|mide)\b"
    r"|英尺|多高|好高|海拔|高度|几米|[多好]少?米",
    re.IGNORECASE,
)
_CELSIUS = re.compile(
    r"celsius|centigrad|zentigrad|centígrad|°\s?c\b|℃|摄氏|\bcelcius|[多几好]少?度"
)
_OLD_STATES: Final = {"England": "United Kingdom", "Scotland": "United Kingdom",
                      "Great Britain": "United Kingdom", "USSR": "Russia"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A fact to be shown: an article and the name of its attribute."""

    article: int
    attribute: str


@dataclass(slots=True)
class Answer:
    """`rows` in the order in which they answer; `notes` say what they come to: "Lyon: no."."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: int = 0


@dataclass(slots=True)
class _Subject:
    """An entity that is asked about."""

    article: int
    kind: str
    entity: str
    start: int
    sentence: int
    written: str


class Answering:
    """Answers readings from the rows of the almanac. `kinds_of`: kinds that have an attribute."""

    def __init__(
        self,
        rows: Rows,
        kinds_of: dict[str, frozenset[str]],
        values_of: Callable[[str], dict[str, list[int]]],
    ) -> None:
        self._rows, self._kinds_of, self._values_of = rows, kinds_of, values_of
        self.rankings = Rankings(rows)

    def answer(self, reading: Reading, text: str) -> Answer:
        """Nothing where the tables do not tell what is asked."""
        subjects = self._subjects(reading)
        if _asks_for_words(reading, subjects, self._kinds_of):
            return self._of_a_word(reading, text)
        ranked = self._ranking(reading, subjects, text)
        if ranked is not None:
            return ranked
        groups, subjects = _in_one_sentence(reading, subjects)
        if not subjects:
            return self._by_value(reading, groups, text)
        checked = self._place_check(reading, groups, subjects)
        if checked is not None:
            return checked
        answer = self._of_subjects(reading, groups, subjects, text)
        return answer if answer.rows else self._by_value(reading, groups, text)

    # --- who is asked about ---

    def _subjects(self, reading: Reading) -> list[_Subject]:
        made = []
        for each in reading.named:
            if each.entity == "World" and (
                reading.order or reading.kinds or len(reading.named) == 2
            ):
                continue
            sentence = reading.tokens[each.start].sentence
            made.append(
                _Subject(each.article, each.kind, each.entity, each.start, sentence, each.written)
            )
        return made

    def _resolved(
        self, groups: list[tuple[str, ...]], reading: Reading, kind: str, text: str
    ) -> list[str]:
        """The attributes that the phrases mean for an entity of this kind."""
        found: list[str] = []
        for group in (
            *groups,
            *(() if any(self._has(kind, a) for g in groups for a in g) else reading.implied),
        ):
            fitting = [each for each in group if self._has(kind, each)]
            if kind == "city" and not fitting and "capital" in group:
                fitting = ["capital of"]
            found += fitting[:1]
        found = _settled(list(dict.fromkeys(found)), kind, groups, text)
        if _listed(reading, text):
            return found
        longest = _longest_first(reading, found)
        return [a for a in longest if a not in WEAK] + [a for a in longest if a in WEAK]

    def _has(self, kind: str, attribute: str) -> bool:
        return kind in self._kinds_of.get(attribute, ())

    # --- rankings ---

    def _ranking(self, reading: Reading, subjects: list[_Subject], text: str) -> Answer | None:
        kinds = [each for each in reading.kinds if each != "word"]
        wanted = reading.attributes or reading.implied
        if not wanted or not reading.order:
            heights = any("highest point" in g for g in reading.attributes)
            if not (heights and kinds and not subjects):
                return None
        kind = self._ranked_kind(reading, subjects, kinds)
        if kind is None:
            return None
        scope = [each for each in subjects if each.kind == "country"] if kind != "country" else []
        if [each for each in subjects if each not in scope] or len(scope) > 1:
            return None
        numeric = [
            each for each in self._resolved(reading.attributes, reading, kind, text)
            if each == "highest point" or self.rankings.numeric(each, kind)
        ]  # fmt: skip
        if not numeric:
            return None
        attribute = "highest elevation" if numeric[0] == "highest point" else numeric[0]
        least = reading.order == "least"
        count = min(reading.count or USUAL_RANKED, MOST_RANKED)
        place = scope[0].entity if scope else ""
        articles = self.rankings.ordered(
            attribute, kind, least=least, count=count, country=place, continent=reading.continent
        )
        return Answer([Row(article, attribute) for article in articles])

    def _ranked_kind(
        self, reading: Reading, subjects: list[_Subject], kinds: list[str]
    ) -> str | None:
        named = {each.kind for each in subjects}
        for kind in ("airport", "city", "element", "country"):
            if kind in kinds and kind not in named:
                if kind == "country" and named:
                    continue
                if named <= {"country"}:
                    return kind
        if named:
            return None
        if kinds or not (reading.count or reading.order):
            return kinds[0] if kinds else None
        groups = reading.attributes or reading.implied
        for kind in ("country", "element", "city", "airport"):
            if any(self._has(kind, each) for each in groups[0]):
                return kind
        return None

    # --- one entity or several ---

    def _of_subjects(
        self, reading: Reading, groups: list[tuple[str, ...]], subjects: list[_Subject], text: str
    ) -> Answer:
        listed = _listed(reading, text)
        kind = _main_kind(subjects, groups, reading, self._kinds_of)
        own = [each for each in subjects if each.kind == kind][:MOST_SUBJECTS]
        others = [each for each in subjects if each.kind != kind]
        attributes = self._resolved(groups, reading, kind, text)
        if len(own) == 1:
            chained = self._chain(reading, groups, own[0], listed, text)
            if chained is not None:
                return self._told(chained, reading, subjects)
        if not attributes:
            return self._of_codes(reading)
        answer = Answer()
        if len(own) == 1 or (listed and len(attributes) > 1):
            for each in own:
                for name in attributes[:MOST_COLUMNS]:
                    if self._value(each.article, name) is not None:
                        answer.rows.append(Row(each.article, name))
            if len(own) == 1 and answer.rows:
                self._check(answer, reading, own[0], others, text)
        else:
            answer = self._compared(reading, own, attributes, groups)
        return self._told(answer, reading, subjects)

    def _of_codes(self, reading: Reading) -> Answer:
        """ "What is Zn?": the fact that a code stands for, where nothing else is asked."""
        rows = []
        for each in reading.named:
            if each.coded:
                for name in _CODES[each.kind]:
                    if str(self._value(each.article, name)) == each.written:
                        rows.append(Row(each.article, name))
        return Answer(rows[:MOST_OF_A_VALUE])

    def _compared(
        self, reading: Reading, own: list[_Subject], attributes: list[str],
        groups: list[tuple[str, ...]],
    ) -> Answer:  # fmt: skip
        """A line for each, of the attribute that most of them have: in the order that is asked for,
        or that of the question."""
        if attributes[0] == "neighbours" and len(own) == 2:
            return self._borders(own)
        if attributes[0] == "highest point" and reading.order:
            attributes = ["highest elevation", *attributes[1:]]
        for name in attributes:
            known = {e.article: v for e in own if (v := self._value(e.article, name)) is not None}
            if known:
                break
        else:
            return Answer()
        order = [each.article for each in own if each.article in known]
        answer = Answer()
        numbers = {a: v for a, v in known.items() if isinstance(v, int | float)}
        if reading.order and not reading.much and len(numbers) == len(known):
            order.sort(key=lambda a: numbers[a], reverse=reading.order == "most")
            if len(own) == 2 and len(numbers) == 2:
                a, b = (numbers[each.article] for each in own)
                word = "less" if reading.order == "least" else "more"
                holds = a < b if word == "less" else a > b
                said = "yes" if holds else "no"
                answer.notes.append(f"Has {own[0].entity} {word} than {own[1].entity}? {said}")
        elif not _joined_up(reading, own):
            at = reading.places[0] if reading.places else 0
            order.sort(key=lambda a: min(abs(e.start - at) for e in own if e.article == a))
        answer.rows = [Row(article, name) for article in dict.fromkeys(order)]
        return answer

    def _borders(self, own: list[_Subject]) -> Answer:
        one, other = own
        value = self._value(one.article, "neighbours")
        if value is None:
            one, other = other, one
            value = self._value(one.article, "neighbours")
        if value is None:
            return Answer()
        said = "yes" if other.entity in str(value).split(", ") else "no"
        return Answer([Row(one.article, "neighbours")], [f"{other.entity}: {said}"])

    def _told(self, answer: Answer, reading: Reading, subjects: list[_Subject]) -> Answer:
        """Says who is who where the question has another name for an entity."""
        shown = {row.article for row in answer.rows}
        for each in subjects:
            if each.article in shown and reading.language.code != "en":
                if key(each.written) not in (key(each.entity), f"{key(each.entity)}s"):
                    note = f"({each.entity}: {each.written})"
                    if note not in answer.notes:
                        answer.notes.append(note)
        return answer

    # --- chains ---

    def _chain(
        self, reading: Reading, groups: list[tuple[str, ...]], subject: _Subject, listed: bool,
        text: str,
    ) -> Answer | None:  # fmt: skip
        """The country's capital, the city's country's currency: a line a step. None where the
        entity itself is meant."""
        said = {name for group in groups for name in group[:1] if name in LINKS}
        said |= {each for each in reading.kinds if each in ("country", "city")}
        said -= {subject.kind} if subject.kind in ("country", "city") else set()
        if subject.kind == "element":
            groups = self._of_discovery(groups, said)
        direct = self._resolved(groups, reading, subject.kind, text)
        penalty = 3.0 if listed and len(direct) > 1 else 0.0
        best: tuple[float, list[Row], tuple[str, ...]] | None = None
        for path in PATHS.get(subject.kind, ((),)):
            rows = self._steps(subject, path, groups, said, reading, text)
            if not rows:
                continue
            used = len([each for each in path if each in said])
            score = 2.0 * used - 1.2 * (len(path) - used) - 0.01 * len(path)
            score += 3.0 * (rows[-1].attribute not in LINKS) - (penalty if path else 0.0)
            score -= 2.0 * bool(path and not used and direct)
            if best is None or score > best[0] + 1e-9:
                best = (score, rows, path)
        return Answer(best[1]) if best is not None and best[2] else None

    def _steps(
        self, subject: _Subject, path: tuple[str, ...], groups: list[tuple[str, ...]],
        said: set[str], reading: Reading, text: str,
    ) -> list[Row]:  # fmt: skip
        """The rows along a path, to what is asked for at its end; none where that is not there."""
        end = _LINK_KIND[path[-1]] if path else subject.kind
        rest = [group for group in groups if not set(group[:1]) & set(path)]
        finals = [each for each in self._resolved(rest, reading, end, text) if each not in path]
        finals = [each for each in finals if each != "location" or not path]
        finals.sort(key=lambda each: each in LINKS)
        if path and not finals and end == "country" and "capital" in said - set(path):
            finals = ["capital"]
        if path and set(finals) <= {"country", "city", "region"} and end == "city":
            finals = []
        return self.walk(subject.article, path, finals, first=bool(path)) if finals else []

    def _of_discovery(self, groups: list[tuple[str, ...]], said: set[str]) -> list[tuple[str, ...]]:
        """ "The country in which oxygen was discovered" is a step, not what is asked for."""
        found = [group for group in groups if _DISCOVERY.intersection(group)]
        others = [g for g in groups if g not in found and g[0] not in ("country", "capital")]
        if found and "country" in said and (others or "capital" in said):
            said.discard("country")
            said.add("discovery country")
            return [group for group in groups if group not in found and group[0] != "country"]
        return groups

    def walk(
        self, article: int, path: tuple[str, ...], finals: list[str], *, first: bool = False
    ) -> list[Row]:
        """The rows of a chain, and at its end the facts that are asked for; `first`: one of them.
        None where a step is missing."""
        rows = []
        country = ""
        for link in path:
            value = self._value(article, link)
            if value is None:
                return []
            rows.append(Row(article, link))
            if link in ("country", "discovery country"):
                country = str(value)
            elif link == "capital":
                country = self._name(article)
            elif link == "city":
                country = str(self._value(article, "country") or "")
            article = self._find(str(value), _LINK_KIND[link], country)
            if not article:
                return []
        ends = [Row(article, each) for each in finals if self._value(article, each) is not None]
        return rows + (ends[:1] if first else ends) if ends else []

    def _find(self, name: str, kind: str, country: str) -> int:
        """An article by the value of a fact; a city is one of its country."""
        name = _OLD_STATES.get(name.partition("/")[0], name.partition("/")[0])
        found = self._rows(
            "select articles.id from names join articles on articles.id = names.article where "
            "names.key = ? and articles.kind = ? order by names.how, articles.weight desc limit 8",
            key(name), KINDS.index(kind),
        )  # fmt: skip
        articles = [row[0] for row in found]
        if kind == "city" and country:
            articles = [a for a in articles if self._value(a, "country") == country] or []
        return int(articles[0]) if articles else 0

    # --- yes or no ---

    def _place_check(
        self, reading: Reading, groups: list[tuple[str, ...]], subjects: list[_Subject]
    ) -> Answer | None:
        """ "Is Paris in Germany?": two names, and nothing else that is asked for."""
        places = {"city", "airport", "country"}
        kinds = {each.kind for each in subjects}
        rest = [g for g in groups if not set(g) & {"country", "location", "city", "region"}]
        if rest or reading.order or len(kinds) != 2 or not kinds <= places or len(subjects) > 3:
            return None
        small, large = (
            ("airport", "city") if "country" not in kinds else (min(kinds - {"country"}), "country")
        )
        subject = next(each for each in subjects if each.kind == small)
        other = next(each for each in subjects if each.kind == large)
        value = self._value(subject.article, large)
        if value is None:
            return None
        holds = key(str(value)) == key(other.entity)
        if not holds:
            better = self._find(subject.entity, small, other.entity) if small == "city" else 0
            if better:
                subject, holds = replace(subject, article=better), True
        answer = Answer(
            [Row(subject.article, large)], [f"{other.entity}: {'yes' if holds else 'no'}"]
        )
        return self._told(answer, reading, subjects)

    def _check(
        self, answer: Answer, reading: Reading, subject: _Subject, others: list[_Subject],
        text: str,
    ) -> None:  # fmt: skip
        """Adds whether a value that the question names is the fact's."""
        row = answer.rows[0]
        value = self._value(row.article, row.attribute)
        said = self._said_value(reading, row.attribute, subject, others, text, value)
        if said:
            name, holds = said
            answer.notes.append(f"{name}: {'yes' if holds else 'no'}")
            del answer.rows[1:]

    def _said_value(
        self, reading: Reading, attribute: str, subject: _Subject, others: list[_Subject],
        text: str, value: Value | None,
    ) -> tuple[str, bool] | None:  # fmt: skip
        if isinstance(value, int | float):
            covered = {p for e in reading.named for p in range(e.start, e.end)}
            for place, token in enumerate(reading.tokens):
                number = _number(token.text)
                if number is not None and place not in covered:
                    return token.written, abs(number - value) < 1e-9 * max(1.0, abs(value))
            return None
        words = f" {key(str(value))} "
        for each in others:
            if self._kind_of_value(attribute) == each.kind:
                holds = f" {key(each.entity)} " in words
                holds = (
                    holds
                    or (attribute == "capital"
                    and self._value(each.article, "capital of") == subject.entity)
                )
                return each.entity, holds
        for kind, name, written in _local_values(reading):
            if kind == _LOCAL_KIND.get(attribute):
                return written, f" {key(name)} " in words
        return self._other_value(reading, attribute, str(value), text)

    def _other_value(
        self, reading: Reading, attribute: str, value: str, text: str
    ) -> tuple[str, bool] | None:
        known = self._values_of(attribute)
        for start, end in reading.spans(10):
            if any(not (end <= e.start or start >= e.end) for e in reading.named):
                continue
            span = reading.text(start, end)
            if span in known and _plainly(
                span, reading, start, end, text, known, self._value, attribute
            ):
                return span, key(value) == span
        return None

    def _kind_of_value(self, attribute: str) -> str:
        return {"capital": "city", "country": "country", "city": "city", "neighbours": "country",
                "capital of": "country", "discovery country": "country",
                "export partners": "country"}.get(attribute, "")  # fmt: skip

    # --- by value ---

    def _by_value(self, reading: Reading, groups: list[tuple[str, ...]], text: str) -> Answer:
        """Who has the value: "whose capital is Nairobi", "which element has 26 protons"."""
        names = [name for group in groups for name in group]
        for name in names:
            if name in WORD_ATTRIBUTES or name in WEAK - {"symbol", "category"}:
                continue
            known = self._values_of(name)
            for kind, english, _ in _local_values(reading):
                found = known.get(key(english))
                if kind == _LOCAL_KIND.get(name) and found:
                    return self._holders(found, name)
            for start, end in reading.spans(10):
                span = reading.text(start, end)
                found = known.get(span)
                if found and _plainly(span, reading, start, end, text, known, self._value, name):
                    return self._holders(found, name)
        for pattern, name in ((_DOMAIN, "internet domain"), (_DIALLED, "calling code")):
            match = pattern.search(text)
            found = self._values_of(name).get(key(match[0])) if match else None
            if found:
                return self._holders(found, name)
        return Answer()

    def _holders(self, articles: list[int], attribute: str) -> Answer:
        shown = articles[:MOST_OF_A_VALUE]
        return Answer([Row(a, attribute) for a in shown], more=len(articles) - len(shown))

    # --- words of the dictionary ---

    def _of_a_word(self, reading: Reading, text: str) -> Answer:
        attributes = [
            name for group in sorted(reading.attributes, key=len) for name in group
            if name in WORD_ATTRIBUTES
        ]  # fmt: skip
        attributes = _longest_first(reading, attributes)
        for candidate in _word_candidates(reading, text):
            found = self._rows(
                "select names.article from names join articles on articles.id = names.article "
                "where names.key = ? and articles.kind = 4 order by names.how limit 1",
                key(candidate),
            )  # fmt: skip
            if found:
                article = int(found[0][0])
                for name in attributes:
                    if self._value(article, name) is not None:
                        return Answer([Row(article, name)])
                return Answer()
        return Answer()

    # --- the file ---

    def _value(self, article: int, attribute: str) -> Value | None:
        rows = self._rows(
            "select stored.value from stored join attributes on attributes.id = stored.attribute "
            "where stored.article = ? and attributes.name = ?", article, attribute,
        )  # fmt: skip
        return rows[0][0] if rows else None

    def _name(self, article: int) -> str:
        return str(self._rows("select name from articles where id = ?", article)[0][0])


_LOCAL_KIND: Final = {"languages": "language", "currency": "currency", "continent": "continent",
                      "capital": "city", "country": "country", "neighbours": "country"}  # fmt: skip


def _settled(found: list[str], kind: str, groups: list[tuple[str, ...]], text: str) -> list[str]:
    """Kelvin or degrees Celsius, the mountain or its height."""
    names = []
    for name in found:
        if f"{name} in Celsius" in ("melting point in Celsius", "boiling point in Celsius"):
            if _CELSIUS.search(text.casefold()):
                name = f"{name} in Celsius"
        if name == "highest point" and kind == "country":
            heights = any("elevation" in g for g in groups)
            if heights or (
                _ABOUT_HEIGHT.search(text)
                and "highest elevation" not in names
                and _asks_height(text)
            ):
                name = "highest elevation"
        names.append(name)
    if "highest elevation" in names and "highest point" in names:
        names.remove("highest point")
    return list(dict.fromkeys(names))


def _asks_height(text: str) -> bool:
    return bool(
        re.search(
            r"how (?:high|tall)|feet|\bft\b|pies|fu(?:ß|ss)|pieds|英尺|wie hoch|多高|好高|海拔|高度|cuánto mide|cuanto mide|hauteur|quelle altitude|height|elevation|qué altura|altura|höhe|in met|en m[eè]t|几米|[多好]少?米",
            text,
            re.IGNORECASE,
        )
    )


def _asks_for_words(
    reading: Reading, subjects: list[_Subject], kinds_of: dict[str, frozenset[str]]
) -> bool:
    groups = reading.attributes
    asked = [group for group in groups if set(group) & WORD_ATTRIBUTES]
    if not asked:
        return False
    if "word" in reading.kinds or not subjects:
        return "word" in reading.kinds or len(asked) == len(groups) or not reading.order
    others = [g for g in groups if any(s.kind in kinds_of.get(n, ()) for s in subjects for n in g)]
    return not others and not any(s.kind in ("country", "element") for s in subjects)


def _word_candidates(reading: Reading, text: str) -> list[str]:
    """What may be the word that is asked about, the likeliest first."""
    quoted = re.findall(r"[\"“„«‘'《]\s?([^\"”“»’'》]{2,40}?)\s?[\"”“»’'》]", text)
    starts = [each.start for each in reading.said if set(each.meaning.attributes) & WORD_ATTRIBUTES]
    ends = [each.end for each in reading.said if set(each.meaning.attributes) & WORD_ATTRIBUTES]
    words = [(i, t) for i, t in enumerate(reading.tokens) if t.text.isascii() and len(t.text) > 1]

    def distance(place: int) -> int:
        return min(
            (min(abs(place - s), abs(place - e)) for s, e in zip(starts, ends, strict=True)),
            default=99,
        )

    def rank(item: tuple[int, object]) -> tuple[bool, bool, int]:
        place = item[0]
        taken = place in reading.taken and not any(n.start <= place < n.end for n in reading.named)
        stop = reading.tokens[place].text in reading.language.stop
        return taken or stop, stop, distance(place)

    ranked = [token.text for _, token in sorted(words, key=rank)]
    return [*quoted, *ranked]


def _longest_first(reading: Reading, names: Iterable[str]) -> list[str]:
    length = {}
    for each in reading.said:
        for name in each.meaning.attributes:
            length[name] = max(length.get(name, 0), len(reading.text(each.start, each.end)))
    return sorted(dict.fromkeys(names), key=lambda name: -length.get(name, 0))


def _in_one_sentence(
    reading: Reading, subjects: list[_Subject]
) -> tuple[list[tuple[str, ...]], list[_Subject]]:
    """Where one sentence has both what is asked and of whom, the others only tell a story."""
    asked: dict[int, list[tuple[str, ...]]] = {}
    for group, place in zip(reading.attributes, reading.places, strict=True):
        asked.setdefault(reading.tokens[place].sentence, []).append(group)
    whole = [
        number for number in asked if any(each.sentence == number for each in subjects)
    ]  # fmt: skip
    latest = max(asked, default=-1)
    before = [each for each in subjects if each.sentence < latest]
    if latest not in whole and before and not reading.order and not reading.much:
        # "She is from Chad. What do they speak there?"
        number = max(each.sentence for each in before)
        if len({each.sentence for each in subjects}) > 1 or len(asked) > 1:
            return asked[latest], [each for each in subjects if each.sentence == number]
    if not whole or latest not in whole:
        return reading.attributes, subjects
    here = [each for each in subjects if each.sentence == latest]
    if len(asked) == 1 and len(here) == len(subjects):
        return reading.attributes, subjects
    return asked[latest], here


def _main_kind(
    subjects: list[_Subject], groups: list[tuple[str, ...]], reading: Reading,
    kinds_of: dict[str, frozenset[str]],
) -> str:  # fmt: skip
    """The kind of the entities that are asked about: that have what is asked for."""
    names = [name for group in (groups or reading.implied) for name in group]
    counts: dict[str, float] = {}
    for each in subjects:
        fits = any(each.kind in kinds_of.get(name, ()) for name in names)
        first = any(each.kind in kinds_of.get(name, ()) for name in names[:1])
        counts[each.kind] = counts.get(each.kind, 0) + 1 + 4 * fits + 2 * first
    return max(counts, key=lambda kind: counts[kind])


def _listed(reading: Reading, text: str) -> bool:
    """Whether what is asked for is a list: "capital and population", "GDP, inflation"."""
    said = [each for each in reading.said if each.meaning.attributes]
    if _TABLE.search(text.casefold()) and len({each.meaning.attributes[0] for each in said}) > 1:
        return True
    joins = {each.start for each in reading.said if each.meaning.joins}
    for before, after in itertools.pairwise(said):
        if before.meaning.attributes[:1] == after.meaning.attributes[:1]:
            continue
        between = range(before.end, after.start)
        if len(between) > 4:
            continue
        comma = any(reading.tokens[p].comma for p in range(before.end - 1, after.start))
        if comma or any(place in joins for place in between):
            return True
    return False


def _joined_up(reading: Reading, own: list[_Subject]) -> bool:
    """Whether names stand as a list, or as two that are set side by side."""
    joins = {each.start for each in reading.said if each.meaning.joins}
    for before, after in itertools.pairwise(own):
        places = range(before.start, after.start)
        comma = any(reading.tokens[p].comma for p in places)
        if comma or any(p in joins for p in places) or after.start - before.start < 4:
            return True
    return reading.much or bool(reading.order)


def _local_values(reading: Reading) -> list[tuple[str, str, str]]:
    """Kind, English name and wording of what the language's own names say in the question."""
    found = []
    for start, end in reading.spans(8):
        span = reading.text(start, end)
        for kind, name in reading.language.names.get(span, ()):
            found.append((kind, name, span))
    return found


def _plainly(
    span: str, reading: Reading, start: int, end: int, text: str, known: dict[str, list[int]],
    value_of: Callable[[int, str], Value | None], attribute: str,
) -> bool:  # fmt: skip
    """Whether a run of words is really meant as a value: short ones stand as they are stored."""
    if span.isdecimal() and end - start == 1:
        return True
    if len(span) > 3 and any(
        reading.free(place) or place in reading.taken for place in range(start, end)
    ):
        return not all(reading.tokens[p].text in reading.language.stop for p in range(start, end))
    stored = str(value_of(known[span][0], attribute))
    return bool(re.search(rf"(?<![A-Za-z0-9.]){re.escape(stored)}(?![A-Za-z0-9])", text))


def _number(text: str) -> float | None:
    try:
        return float(text) if re.fullmatch(r"\d+(?:\.\d+)?", text) else None
    except ValueError:  # pragma: no cover - the pattern has only numbers
        return None


__all__ = ["Answer", "Answering", "Named", "Row"]
