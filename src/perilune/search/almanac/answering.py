"""The facts that answer a reading: of one entity, of several, in order, along a chain, by value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from perilune.search.almanac.parts import (
    LOCAL_KIND,
    WEAK,
    WORD_ATTRIBUTES,
    Subject,
    Value,
    asks_for_words,
    in_one_sentence,
    is_list,
    joined_up,
    local_values,
    longest_first,
    main_kind,
    number_in,
    plainly,
    settled,
    word_candidates,
)
from perilune.search.almanac.ranking import Rankings
from perilune.search.almanac.reading import Reading, Rows
from perilune.search.almanac.tables import KINDS
from perilune.search.almanac.text import key

Attributes = dict[str, Value]

MOST_RANKED: Final = 20
USUAL_RANKED: Final = 5
MOST_SUBJECTS: Final = 14
MOST_COLUMNS: Final = 6
MOST_OF_A_VALUE: Final = 12
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
_CODES: Final = {"element": ("symbol",), "airport": ("IATA code", "ICAO code"),
                 "country": ("ISO code", "ISO-3 code"), "city": ()}  # fmt: skip
_DISCOVERY: Final = frozenset(("discoverers", "discovery year", "discovery country"))
_DOMAIN = re.compile(r"(?<![A-Za-z0-9])\.[a-z]{2}(?![A-Za-z0-9.])")
_DIALLED = re.compile(r"(?<![A-Za-z0-9])\+\d{1,3}(?:-\d{3})?(?!\d)")
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
        if asks_for_words(reading, subjects, self._kinds_of):
            return self._of_a_word(reading, text)
        ranked = self._ranking(reading, subjects, text)
        if ranked is not None:
            return ranked
        groups, subjects = in_one_sentence(reading, subjects)
        if not subjects:
            return self._by_value(reading, groups, text)
        checked = self._place_check(reading, groups, subjects)
        if checked is not None:
            return checked
        answer = self._of_subjects(reading, groups, subjects, text)
        return answer if answer.rows else self._by_value(reading, groups, text)

    # --- who is asked about ---

    def _subjects(self, reading: Reading) -> list[Subject]:
        made = []
        for each in reading.named:
            if each.entity == "World" and (
                reading.order or reading.kinds or len(reading.named) == 2
            ):
                continue
            sentence = reading.tokens[each.start].sentence
            made.append(
                Subject(each.article, each.kind, each.entity, each.start, sentence, each.written)
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
        found = settled(list(dict.fromkeys(found)), kind, groups, text)
        if is_list(reading, text):
            return found
        longest = longest_first(reading, found)
        return [a for a in longest if a not in WEAK] + [a for a in longest if a in WEAK]

    def _has(self, kind: str, attribute: str) -> bool:
        return kind in self._kinds_of.get(attribute, ())

    # --- rankings ---

    def _ranking(self, reading: Reading, subjects: list[Subject], text: str) -> Answer | None:
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
        self, reading: Reading, subjects: list[Subject], kinds: list[str]
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
        self, reading: Reading, groups: list[tuple[str, ...]], subjects: list[Subject], text: str
    ) -> Answer:
        listed = is_list(reading, text)
        kind = main_kind(subjects, groups, reading, self._kinds_of)
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
        self, reading: Reading, own: list[Subject], attributes: list[str],
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
        elif not joined_up(reading, own):
            at = reading.places[0] if reading.places else 0
            order.sort(key=lambda a: min(abs(e.start - at) for e in own if e.article == a))
        answer.rows = [Row(article, name) for article in dict.fromkeys(order)]
        return answer

    def _borders(self, own: list[Subject]) -> Answer:
        one, other = own
        value = self._value(one.article, "neighbours")
        if value is None:
            one, other = other, one
            value = self._value(one.article, "neighbours")
        if value is None:
            return Answer()
        said = "yes" if other.entity in str(value).split(", ") else "no"
        return Answer([Row(one.article, "neighbours")], [f"{other.entity}: {said}"])

    def _told(self, answer: Answer, reading: Reading, subjects: list[Subject]) -> Answer:
        """Says who is who where the question has another name for an entity."""
        shown = {row.article for row in answer.rows}
        for each in subjects:
            same = key(each.written) in (key(each.entity), f"{key(each.entity)}s")
            if each.article not in shown or same or reading.language.code == "en":
                continue
            note = f"({each.entity}: {each.written})"
            if note not in answer.notes:
                answer.notes.append(note)
        return answer

    # --- chains ---

    def _chain(
        self, reading: Reading, groups: list[tuple[str, ...]], subject: Subject, listed: bool,
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
        self, subject: Subject, path: tuple[str, ...], groups: list[tuple[str, ...]],
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
        self, reading: Reading, groups: list[tuple[str, ...]], subjects: list[Subject]
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
        self, answer: Answer, reading: Reading, subject: Subject, others: list[Subject],
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
        self, reading: Reading, attribute: str, subject: Subject, others: list[Subject],
        text: str, value: Value | None,
    ) -> tuple[str, bool] | None:  # fmt: skip
        if isinstance(value, int | float):
            covered = {p for e in reading.named for p in range(e.start, e.end)}
            for place, token in enumerate(reading.tokens):
                number = number_in(token.text)
                if number is not None and place not in covered:
                    return token.written, abs(number - value) < 1e-9 * max(1.0, abs(value))
            return None
        words = f" {key(str(value))} "
        for each in others:
            if self._kind_of_value(attribute) == each.kind:
                holds = f" {key(each.entity)} " in words
                holds = holds or (
                    attribute == "capital"
                    and self._value(each.article, "capital of") == subject.entity
                )
                return each.entity, holds
        for kind, name, written in local_values(reading):
            if kind == LOCAL_KIND.get(attribute):
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
            if span in known and plainly(
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
            for kind, english, _ in local_values(reading):
                found = known.get(key(english))
                if kind == LOCAL_KIND.get(name) and found:
                    return self._holders(found, name)
            for start, end in reading.spans(10):
                span = reading.text(start, end)
                found = known.get(span)
                if found and plainly(span, reading, start, end, text, known, self._value, name):
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
        attributes = longest_first(reading, attributes)
        for candidate in word_candidates(reading, text):
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


__all__ = ["Answer", "Answering", "Row"]
