"""Episodes over an invented almanac: the attributes of real ones, invented names and values.

A question for one fact is handed to the tool as it was asked, because the tool knows more words for
an attribute than a small model can learn. Where two entities are compared, each gets a query of its
own: its name, and the words that are marked in the phrasing (`gazetteer.toml`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perilune.agent.models.scripted import Reply
from perilune.nano.training.names import invented_code, invented_name, invented_word
from perilune.nano.training.policy import (
    Policy,
    Seen,
    UnsolvableError,
    calculate,
    citations,
    give_up,
    look_up,
    seen,
)
from perilune.search.almanac import open_almanac
from perilune.search.almanac.attributes import Attribute, read_attributes
from perilune.search.almanac.questions import COLLOQUIAL, phrasings_by_kind, pool
from perilune.search.almanac_facts import almanac_facts
from perilune.search.facts import Fact, Facts, FactStore, normalised
from perilune.world.seed import Stream, weighted

ENTITIES = (3, 6)
"""How many entities an invented almanac has."""
ATTRIBUTES = (4, 9)
"""How many attributes each of them has, those of a kind in common but for one or two."""
_DATED = 0.7
_KINDS = {"country": 38, "word": 24, "city": 14, "element": 14, "airport": 10}
"""How often each kind of the almanac's articles is asked about."""
_ASKING = frozenset(("how", "what", "which", "where", "when", "who", "in"))


@dataclass(frozen=True, slots=True)
class Question:
    """A question over an invented almanac, and how it is solved."""

    text: str
    policy: Policy
    facts: FactStore


def lookup_question(stream: Stream) -> Question:
    """One fact of one entity; rarely one that is missing, or of an entity that does not exist."""
    facts, names, attributes = _almanac(stream)
    name, attribute = stream.pick(names), stream.pick(attributes)
    if stream.chance(0.06):
        name = invented_name(stream)
    elif stream.chance(0.08):
        attribute = stream.pick(_ATTRIBUTES)
    own = _PHRASINGS.get(attribute.name, ())
    phrasing = stream.pick(own if own and stream.chance(0.6) else _GENERAL["lookup"])
    text, _, _ = _worded(stream, phrasing, _label(stream, attribute), [name])
    text = _chatty(stream, text)
    return Question(text, _lookup(text, attribute.name), facts)


def real_question(stream: Stream) -> Question:
    """One fact of the almanac itself, of an entity that no examination asks about."""
    store = almanac_facts()
    kind = weighted(stream, _KINDS)
    fact = stream.pick(open_almanac().facts_of(stream.pick(pool(kind, "train"))))
    attribute = _BY_NAME[fact.attribute]
    own = _PHRASINGS.get(attribute.name, ())
    phrasing = stream.pick(own if own and stream.chance(0.6) else _GENERAL["lookup"])
    text, _, _ = _worded(stream, phrasing, _label(stream, attribute), [fact.entity])
    text = _chatty(stream, text)
    return Question(text, _lookup(text, attribute.name, fact.entity), store)


def pair_question(stream: Stream) -> Question:
    """Two entities compared, added or divided."""
    facts, names, attributes = _almanac(stream)
    numeric = [each for each in attributes if each.unit] or [_POPULATION]
    attribute = stream.pick(numeric)
    phrasing, what = stream.pick(_GENERAL["larger"])
    pair = stream.sample(names, 2)
    text, words, said = _worded(stream, phrasing, _label(stream, attribute), pair)
    return Question(text, _pair(said, words, what, attribute.name), facts)


# --- policies -----------------------------------------------------------------------------------


def _lookup(question: str, attribute: str, entity: str = "") -> Policy:
    results = yield from look_up([question.rstrip("?.! ")], "Look it up.")
    missing = give_up(results)
    if missing is None:
        missing = Reply(reasoning="Found it.", content=_meant(results[0], attribute, entity).cited)
    yield missing


def _meant(result: str, attribute: str, entity: str = "") -> Seen:
    """The first fact, where it is the one that was meant."""
    fact = seen(result)[0]
    if fact.attribute != attribute or (entity and fact.entity != entity):
        raise UnsolvableError(f"the words fit {fact.entity}.{fact.attribute} as well")
    return fact


def _pair(names: list[str], words: str, what: str, attribute: str) -> Policy:
    results = yield from look_up(
        [f"{name} {words}" for name in names], f"Look up the {words} of each."
    )
    missing = give_up(results)
    if missing:
        yield missing
        return
    facts = [_meant(result, attribute) for result in results]
    yield (yield from _combined(facts, what))


def _combined(facts: list[Seen], what: str) -> Generator[Reply, list[str], Reply]:
    a, b = (fact.number for fact in facts)
    unit = facts[0].value.partition(" ")[2]
    pairs = ", ".join(f"({fact.number}, {fact.entity!r})" for fact in facts)
    if what in ("largest", "smallest", "share"):
        least = what == "smallest"
        first = yield from calculate(f"{'min' if least else 'max'}({pairs})", "Compare them.")
        chosen = [fact for fact in facts if f", {fact.entity!r})" in first]
        if what != "share":
            return Reply(reasoning="Done.", content=f"{chosen[0].entity}{citations(facts)}")
        share = yield from calculate(
            f"round((max({a}, {b}) / min({a}, {b}) - 1) * 100, 1)", "Now the share in percent."
        )
        text = f"{chosen[0].entity}, by {share} %{citations(facts)}"
        return Reply(reasoning="Done.", content=text)
    code = {
        "difference": f"max({a}, {b}) - min({a}, {b})",
        "sum": f"{a} + {b}",
        "ratio": f"round({a} / {b}, 2)",
    }[what]
    value = yield from calculate(code, f"Calculate the {what}.")
    amount = value if what == "ratio" or not unit else f"{value} {unit}"
    return Reply(reasoning="Done.", content=amount + citations(facts))


# --- words --------------------------------------------------------------------------------------


def _label(stream: Stream, attribute: Attribute) -> str:
    """Its name, or one of the words that ask for it."""
    if stream.chance(0.5):
        return attribute.name
    return stream.pick(attribute.aliases)


def _worded(
    stream: Stream, phrasing: str, label: str, names: list[str]
) -> tuple[str, str, list[str]]:
    """-> the question, the words for the query, the names as they stand in the question."""
    template = phrasing.replace("{l}", label)
    template = template.replace("{x}", "\0").replace("{y}", "\1")
    if stream.chance(0.35):
        template, names = template.lower(), [name.lower() for name in names]
    if stream.chance(0.25):
        template = template.rstrip("?.")
    if stream.chance(0.25):
        template = _with_typo(stream, template)
    words = " ".join(dict.fromkeys(re.findall(r"\[([^\]]*)\]", template)))
    text = template.replace("[", "").replace("]", "")
    if normalised(text.replace("\0", " e ")) in _KEPT:
        raise UnsolvableError("this phrasing is kept for examinations")
    text = text.replace("\0", names[0])
    if len(names) > 1:
        text = text.replace("\1", names[1])
    return text, words, names


def _chatty(stream: Stream, text: str) -> str:
    """Sometimes with words around the question that ask for nothing."""
    if stream.chance(0.12):
        text = f"{stream.pick(_GENERAL['before'])} {text}"
    if stream.chance(0.12):
        text = f"{text.rstrip('?. ')} {stream.pick(_GENERAL['behind'])}"
    return text


def _with_typo(stream: Stream, template: str) -> str:
    """One letter of a common word lost, doubled or changed places; names are left."""
    spots = [match.start() for match in re.finditer(r"(?<=[a-z]{2})[a-z](?=[a-z]{2})", template)]
    if not spots:
        return template
    at = stream.pick(spots)
    kind = stream.below(3)
    if kind == 0:
        return template[:at] + template[at + 1 :]
    if kind == 1:
        return template[:at] + template[at] + template[at:]
    return template[: at - 1] + template[at] + template[at - 1] + template[at + 1 :]


# --- invented almanacs ----------------------------------------------------------------------------


def _almanac(stream: Stream) -> tuple[Facts, list[str], list[Attribute]]:
    """-> the facts, the names, and the attributes that most of them have."""
    shape = stream.pick(("place", "place", "short", "airport"))
    count = stream.between(*ATTRIBUTES)
    main = [each for each in _ATTRIBUTES if each.name in _PHRASINGS]
    common = [stream.pick(main if stream.chance(0.6) else _ATTRIBUTES) for _ in range(count)]
    common = list(dict.fromkeys(common))
    names, facts = [], []
    for _ in range(stream.between(*ENTITIES)):
        name = invented_name(stream, shape)
        names.append(name)
        year = str(stream.between(1960, 2026)) if stream.chance(_DATED) else ""
        for attribute in common:
            if stream.chance(0.04):
                continue
            value = _value(stream, attribute)
            facts.append(
                Fact(
                    name, attribute.name, value, shape, attribute.aliases, year, "",
                    f"almanac:{name}",
                )
            )  # fmt: skip
    return Facts(facts), names, common


def _value(stream: Stream, attribute: Attribute) -> str:
    if attribute.unit:
        # Even over the magnitudes, as sizes of real things are.
        digits = str(stream.below(10 ** stream.between(1, 10)))
        if stream.chance(0.25):
            digits = digits[:3] + "." + str(stream.between(1, 999))
        return f"{digits} {attribute.unit}"
    if "code" in attribute.name or "symbol" in attribute.name:
        return invented_code(stream)
    kind = stream.below(6)
    if kind == 0:
        return str(stream.between(1500, 2020))
    if kind == 1:
        return ", ".join(invented_name(stream, "short") for _ in range(stream.between(2, 3)))
    if kind == 2:
        words = [invented_word(stream, stream.between(1, 2)) for _ in range(stream.between(1, 3))]
        return " ".join(words)
    return invented_name(stream)


def _usable(alias: str) -> bool:
    """Whether words can stand for the attribute within any phrasing: "the [size] of X"."""
    words = alias.split(" ")
    return len(words) <= 3 and words[0] not in (
        "how",
        "what",
        "which",
        "where",
        "when",
        "who",
        "in",
    )


def _load() -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Phrasings by attribute, those of `questions.toml` that are not kept for exams among them."""
    text = Path(__file__).with_name("gazetteer.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    phrasings: dict[str, list[str]] = tables["phrasings"]
    aliases = {each.name: each.aliases for each in read_attributes()}
    for attributes in phrasings_by_kind().values():
        for name, ways in attributes.items():
            marked = [_marked(plain, name, aliases.get(name, ())) for plain in ways["plain"]]
            phrasings.setdefault(name, []).extend(filter(None, marked))
    return phrasings, tables["general"]


def _marked(phrasing: str, name: str, aliases: tuple[str, ...]) -> str:
    """A phrasing with the words that ask for its attribute in brackets; "" where there are none."""
    for words in sorted({name, *aliases}, key=len, reverse=True):
        found = re.search(rf"\b{re.escape(words)}\b", phrasing, re.IGNORECASE)
        if found:
            begin, end = found.span()
            whole = f"{phrasing[:begin]}[{found[0]}]{phrasing[end:]}"
            return whole.replace("{e}", "{x}")
    return ""


_PHRASINGS, _GENERAL = _load()
_KEPT = frozenset(
    normalised(phrasing.replace("{e}", " e "))
    for attributes in phrasings_by_kind().values()
    for ways in attributes.values()
    for key_ in COLLOQUIAL
    for phrasing in ways.get(key_, ())
)
"""The colloquial phrasings of examinations, which no training question has."""
_ATTRIBUTES = [
    replace(each, aliases=tuple(filter(_usable, each.aliases)) or (each.name,))
    for each in read_attributes()
]
_BY_NAME = {each.name: each for each in _ATTRIBUTES}
_POPULATION = next(each for each in _ATTRIBUTES if each.name == "population")
