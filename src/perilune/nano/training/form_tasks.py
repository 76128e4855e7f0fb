"""Question forms filled with entities of the almanac, and what would answer them.

A filled form knows the facts that it asks for, as the almanac has them. Training, the examination
and the benchmark of `lookup` fill forms here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from perilune.nano.training.question_forms import Form
from perilune.search.almanac import open_almanac
from perilune.search.almanac.almanac import Fact
from perilune.search.almanac.language import language
from perilune.search.almanac.questions import Split, pool, split_of
from perilune.search.almanac.text import key
from perilune.world.seed import Stream

KNOWN_BY_KIND = ("country", "city", "element", "airport", "word")
NO_FACTS = frozenset(("arithmetic", "percentage", "smalltalk", "beyond"))
_AND = {"en": " and ", "de": " und ", "fr": " et ", "es": " y ", "zh": "和"}
_COMMA = {"zh": "、"}
_LISTED = (3, 5)
_TOP = (2, 7)
_TRIES = 60
_VALUE_KIND = {"capital": "city", "capital of": "country", "country": "country", "city": "city",
               "currency": "currency", "continent": "continent"}  # fmt: skip
_PARTS = frozenset(("languages", "neighbours", "religions", "export partners"))
"""Attributes that are lists: a question names one of its parts."""


class UnfillableError(Exception):
    """The almanac has nothing that fits the form."""


@dataclass(frozen=True, slots=True)
class FormTask:
    """A question and the facts that answer it, in the order of the answer.

    `slots`: what was filled in; `written`: the entities as they stand in the text; `yes`: the
    answer where the form asks for yes or no; `count`: rows of a ranking.
    """

    form: Form
    text: str
    facts: tuple[Fact, ...] = ()
    slots: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    yes: bool | None = None
    count: int = 0

    @property
    def kind(self) -> str:
        return self.form.kind

    @property
    def language(self) -> str:
        return self.form.language


def fill(form: Form, stream: Stream, split: Split = "train") -> FormTask:
    """A form with entities of a split. Raises UnfillableError where none fits."""
    make = _MAKERS.get(form.kind)
    if make is None:
        raise UnfillableError(f"forms of kind {form.kind} are not filled from the almanac")
    for _ in range(_TRIES):
        task = make(form, stream, split)
        if task is not None:
            return task
    raise UnfillableError(f"no entities for {form.text!r}")


# --- entities -------------------------------------------------------------------------------------


@cache
def _pool(kind: str, split: Split, code: str) -> tuple[str, ...]:
    """Addresses of a kind; in Chinese only entities that have a Chinese name, where names differ.
    Of countries, rankings aside, all; of cities those of half a million and more."""
    found = pool(kind, split)
    if code == "zh" and kind in ("country", "city", "element"):
        known = language(code).local
        found = [each for each in found if (kind, _facts(each)[0].entity) in known] or found
    return tuple(found)


@cache
def _facts(address: str) -> tuple[Fact, ...]:
    return tuple(open_almanac().facts_of(address))


def fact_of(address: str, attribute: str) -> Fact | None:
    return next((each for each in _facts(address) if each.attribute == attribute), None)


def _draw(
    form: Form, stream: Stream, split: Split, attributes: Sequence[str], count: int = 1
) -> list[str] | None:
    """Addresses of different entities that have all the attributes; None if these do not."""
    kind = str(form.asks.get("of") or "country")
    addresses = _pool(kind, split, form.language)
    if len(addresses) < count:
        return None
    chosen = stream.sample(addresses, count)
    if all(fact_of(each, name) for each in chosen for name in attributes):
        return list(chosen)
    return None


def local_name(address: str, code: str) -> str:
    """What an entity is called in a language, where the tables know it; else its English name."""
    fact = _facts(address)[0]
    return language(code).local.get((fact.kind, fact.entity), fact.entity)


def local_value(attribute: str, value: object, code: str) -> str:
    """A value as a person would write it."""
    text = str(value)
    kind = "language" if attribute == "languages" else _VALUE_KIND.get(attribute, "")
    return language(code).local.get((kind, text), text)


def list_of(names: Sequence[str], code: str) -> str:
    """ "Kenya, Uganda and Chad", as the language joins names."""
    if len(names) < 2:
        return "".join(names)
    return _COMMA.get(code, ", ").join(names[:-1]) + _AND[code] + names[-1]


# --- the kinds of forms ---------------------------------------------------------------------------


def _task(
    form: Form, slots: dict[str, str], facts: Sequence[Fact], addresses: Sequence[str] = (),
    yes: bool | None = None, count: int = 0,
) -> FormTask:  # fmt: skip
    names = {_facts(each)[0].entity: local_name(each, form.language) for each in addresses}
    return FormTask(form, form.fill(**slots), tuple(facts), slots, names, yes, count)


def _single(form: Form, stream: Stream, split: Split) -> FormTask | None:
    attribute = str(form.asks["attribute"])
    extra = [slot for slot in form.slots if slot in ("b", "c")]
    drawn = _draw(form, stream, split, [attribute], 1)
    others = _draw(form, stream, split, [], 3)
    if not drawn or not others or drawn[0] in others:
        return None
    fact = fact_of(drawn[0], attribute)
    assert fact is not None
    name = local_name(drawn[0], form.language)
    slots = {"a": name, "word": name}
    slots |= {
        slot: local_name(each, form.language) for slot, each in zip(extra, others, strict=False)
    }
    if form.kind == "definition" and " " in name:
        return None
    return _task(form, slots, [fact], drawn)


def _reverse(form: Form, stream: Stream, split: Split) -> FormTask | None:
    attribute = str(form.asks["attribute"])
    drawn = _draw(form, stream, split, [attribute], 1)
    if not drawn:
        return None
    fact = fact_of(drawn[0], attribute)
    assert fact is not None
    value = _one_value(fact, stream, form.language)
    return _task(form, {"value": value[1], "a": value[1]}, [fact], drawn)


def _one_value(fact: Fact, stream: Stream, code: str) -> tuple[str, str]:
    """A value, or a part of a list: in English, and in the language."""
    text = str(fact.value)
    if fact.attribute in _PARTS:
        parts = [part.strip() for part in text.split(",")]
        names = [part.split(" (")[0].rstrip(" 0123456789.%") for part in parts]
        known = [n for n in names if n and n[0].isupper() and len(n.split()) < 3]
        text = stream.pick(known[:3]) if known else text
    return text, local_value(fact.attribute, text, code)


def _yesno(form: Form, stream: Stream, split: Split) -> FormTask | None:
    attribute = str(form.asks["attribute"])
    drawn = _draw(form, stream, split, [attribute], 2)
    if not drawn:
        return None
    fact, other = (fact_of(each, attribute) for each in drawn)
    assert fact is not None and other is not None
    yes = stream.chance(0.5)
    english, said = _one_value(fact if yes else other, stream, form.language)
    if not yes and f" {key(english)} " in f" {key(str(fact.value))} ":
        return None
    slots = {"a": local_name(drawn[0], form.language), "value": said}
    return _task(form, slots, [fact], drawn[:1], yes=yes)


def _several(form: Form, stream: Stream, split: Split) -> FormTask | None:
    attribute = str(form.asks["attribute"])
    letters = sorted({slot for slot in form.slots if slot in "abcde"})
    count = stream.between(*_LISTED) if "list" in form.slots else len(letters)
    drawn = _draw(form, stream, split, [attribute], count)
    if not drawn:
        return None
    facts = [fact_of(each, attribute) for each in drawn]
    numbers = [f.value for f in facts if f and isinstance(f.value, int | float)]
    if len(numbers) != len(facts) or len(set(numbers)) != len(numbers):
        return None
    if form.kind in ("share", "ratio") and min(numbers) <= 0:
        return None
    names = [local_name(each, form.language) for each in drawn]
    slots = dict(zip(letters, names, strict=False)) | {"list": list_of(names, form.language)}
    yes = None
    if form.kind == "yesno_compare":
        yes = (numbers[0] > numbers[1]) == (form.asks["direction"] == "most")
    return _task(form, slots, [f for f in facts if f], drawn, yes=yes)


def _hops(form: Form, stream: Stream, split: Split) -> FormTask | None:
    path = tuple(form.asks["path"])
    drawn = _draw(form, stream, split, [path[0]], 1)
    if not drawn:
        return None
    facts = open_almanac().along(drawn[0], path)
    if len(facts) != len(path):
        return None
    return _task(form, {"a": local_name(drawn[0], form.language)}, facts, drawn)


def _top(form: Form, stream: Stream, split: Split) -> FormTask | None:
    kind, least = str(form.asks.get("of") or "country"), form.asks["direction"] == "least"
    count = stream.between(*_TOP) if "k" in form.slots else 1
    scope: list[str] = []
    if "a" in form.slots:
        countries = _pool("country", split, form.language)
        scope = [stream.pick(countries)]
    country = _facts(scope[0])[0].entity if scope else ""
    facts = open_almanac().ranked(
        kind, str(form.asks["attribute"]), least=least, count=count, country=country
    )
    if len(facts) < count:
        return None
    slots = {"k": str(count)}
    if scope:
        slots["a"] = local_name(scope[0], form.language)
    return _task(form, slots, facts, scope, count=count)


def _table(form: Form, stream: Stream, split: Split) -> FormTask | None:
    attributes = [str(each) for each in form.asks["attributes"]]
    letters = sorted({slot for slot in form.slots if slot in "abcde"})
    count = stream.between(3, 6) if "list" in form.slots else max(1, len(letters))
    drawn = _draw(form, stream, split, attributes, count)
    if not drawn:
        return None
    facts = [fact_of(each, name) for each in drawn for name in attributes]
    names = [local_name(each, form.language) for each in drawn]
    slots = dict(zip(letters, names, strict=False)) | {"list": list_of(names, form.language)}
    return _task(form, slots, [f for f in facts if f], drawn)


_Maker = Callable[[Form, Stream, Split], FormTask | None]
_MAKERS: dict[str, _Maker] = {
    **dict.fromkeys(("fact", "unit", "year", "listing", "distractor", "definition"), _single),
    **dict.fromkeys(
        ("compare2", "compare_many", "sum", "difference", "share", "ratio", "yesno_compare"),
        _several,
    ),
    "reverse": _reverse, "yesno": _yesno, "two_hop": _hops, "three_hop": _hops, "topk": _top,
    "table": _table,
}  # fmt: skip

__all__ = ["FormTask", "UnfillableError", "fact_of", "fill", "list_of", "local_name", "split_of"]
