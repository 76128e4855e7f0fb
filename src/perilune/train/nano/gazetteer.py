"""Episodes over an invented almanac: the attributes of real ones, invented names and values.

The words of a question that the query takes over are marked in its phrasing (`gazetteer.toml`), so
that what is learnt is to pass on what was asked, in whichever words; the tool knows the aliases.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perilune.agent.tools.lookup.facts import Fact, Facts
from perilune.train.nano.names import invented_code, invented_name, invented_word
from perilune.train.nano.policy import (
    Policy,
    Reply,
    Seen,
    UnsolvableError,
    calculate,
    citations,
    give_up,
    look_up,
    seen,
)
from perilune.world.seed import Stream

ENTITIES = (4, 9)
"""How many entities an invented almanac has."""
_LEFT_OUT = 0.1
"""Share of facts that nobody wrote down."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question over an invented almanac, and how it is solved."""

    text: str
    policy: Policy
    facts: Facts


def lookup_question(stream: Stream) -> Question:
    """One fact of one entity, which may be missing."""
    facts, entities = _almanac(stream)
    kind, name = stream.pick(entities)
    attribute = stream.pick(_KINDS[kind]["attributes"])
    if stream.chance(0.45) and attribute["phrasings"]:
        phrasing = stream.pick(attribute["phrasings"])
    else:
        phrasing = stream.pick(_GENERAL["lookup"])
    if stream.chance(0.06):
        name = invented_name(stream)  # of nothing
    text, words, (said,) = _worded(stream, phrasing, _label(stream, attribute), [name])
    return Question(text, _lookup(said, words, attribute["name"]), facts)


def pair_question(stream: Stream) -> Question:
    """Two entities compared, added or divided."""
    facts, entities = _almanac(stream)
    kinds = [(kind, [name for other, name in entities if other == kind]) for kind in dict(entities)]
    kind, names = stream.pick([each for each in kinds if len(each[1]) >= 2] or kinds[:1])
    if len(names) < 2:
        return lookup_question(stream)
    numeric = [each for each in _KINDS[kind]["attributes"] if "number" in each]
    attribute = stream.pick(numeric)
    phrasing, what = stream.pick(_GENERAL["larger"])
    pair = stream.sample(names, 2)
    text, words, said = _worded(stream, phrasing, _label(stream, attribute), pair)
    return Question(text, _pair(said, words, what, attribute["name"]), facts)


# --- policies -----------------------------------------------------------------------------------


def _lookup(name: str, words: str, attribute: str) -> Policy:
    results = yield from look_up([f"{name} {words}"], f"Look up {name}: {words}.")
    missing = give_up(results)
    yield missing or Reply(reasoning="Found it.", content=_meant(results[0], attribute).cited)


def _meant(result: str, attribute: str) -> Seen:
    """The first fact, where it is of the attribute that was meant."""
    fact = seen(result)[0]
    if fact.attribute != attribute:
        raise UnsolvableError(f"the words fit {fact.attribute} as well")
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
            return Reply(reasoning="Done.", content=f"{chosen[0].entity}{citations(chosen[:1])}")
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


def _label(stream: Stream, attribute: Mapping[str, Any]) -> str:
    labels = [attribute["name"].replace("_", " "), *attribute["labels"]]
    return str(stream.pick(labels) if stream.chance(0.6) else labels[0])


def _worded(
    stream: Stream, phrasing: str, label: str, names: list[str]
) -> tuple[str, str, list[str]]:
    """-> the question, the words for the query, the names as they stand in the question."""
    template = phrasing.replace("{l}", label)
    template = template.replace("{x}", "\0").replace("{y}", "\1")
    style = stream.below(8)
    if style == 0:
        template, names = template.lower(), [name.lower() for name in names]
    elif style == 1:
        template = template.rstrip("?.")
    elif style == 2:
        template = _with_typo(stream, template)
    words = " ".join(re.findall(r"\[([^\]]*)\]", template)[:1])
    text = template.replace("[", "").replace("]", "")
    text = text.replace("\0", names[0])
    if len(names) > 1:
        text = text.replace("\1", names[1])
    return text, words, names


def _with_typo(stream: Stream, template: str) -> str:
    """One letter of a common word lost, doubled or changed places; names and [words] are left."""
    spots = [
        match.start()
        for match in re.finditer(r"(?<=[a-z])[a-z](?=[a-z])", template)
        if template.count("[", 0, match.start()) == template.count("]", 0, match.start())
    ]
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


def _almanac(stream: Stream) -> tuple[Facts, list[tuple[str, str]]]:
    facts, entities = [], []
    kinds = [stream.pick(list(_KINDS)) for _ in range(2)]
    for _ in range(stream.between(*ENTITIES)):
        kind = stream.pick(kinds)
        name = invented_name(stream, _KINDS[kind]["names"])
        entities.append((kind, name))
        year = str(stream.between(1960, 2024)) if stream.chance(0.3) else ""
        for attribute in _KINDS[kind]["attributes"]:
            if stream.chance(_LEFT_OUT):
                continue
            value = _value(stream, attribute)
            facts.append(
                Fact(
                    name,
                    attribute["name"],
                    value,
                    kind,
                    tuple(attribute["labels"]),
                    year if "number" in attribute else "",
                    "",
                    f"almanac:{name}",
                )
            )
    return Facts(facts), entities


def _value(stream: Stream, attribute: Mapping[str, Any]) -> str:
    if "number" in attribute:
        low, high, decimals = attribute["number"]
        # Even over the magnitudes, as sizes of real things are.
        top = max(low + 1, min(high, 10 ** stream.between(1, len(str(high)))))
        number = low + stream.below(int(top - low + 1))
        digits = f"{number}"
        if decimals:
            digits += "." + "".join(str(stream.below(10)) for _ in range(decimals))
            digits = digits.rstrip("0").rstrip(".") if stream.chance(0.5) else digits
        return f"{digits} {attribute['unit']}".strip()
    if "words" in attribute:
        return str(stream.pick(attribute["words"]))
    match attribute["value"]:
        case "year":
            return str(stream.between(1500, 2020))
        case "code":
            return invented_code(stream)
        case "word":
            return invented_word(stream, stream.between(2, 3))
    return invented_name(stream)


def _load() -> tuple[dict[str, Any], dict[str, Any]]:
    text = Path(__file__).with_name("gazetteer.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    general = tables.pop("general")
    return tables, general


_KINDS, _GENERAL = _load()
