"""How nano answers a filled question form: the question goes to `lookup` as it is.

The tool does what a small model cannot: other words, other languages, ranking, chains. What is left
is to hand the question on, to copy from the lines that come back, to calculate with what they say,
and to answer in the language of the question. Where the question as it stands brings the wrong
lines, the oracle asks once more in plain words ("Kenya capital").
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Generator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from perilune.agent.models.scripted import Reply
from perilune.nano.training.form_tasks import FormTask
from perilune.nano.training.policy import (
    Policy,
    Seen,
    UnsolvableError,
    calculate,
    citations,
    look,
    look_up,
    seen,
)
from perilune.search.almanac.almanac import Fact

Gather = Generator[Reply, list[str], tuple[list[Seen], list[str]]]
_ENDS = " ?.!？。！¿¡\n"
_NOTE = re.compile(r"\((.+): (.+)\)")
_GROWTH = re.compile(
    r"by (?:what|how)|bigger|larger|more|higher|greater|größer|groesser|mehr|höher|plus|más|mayor|"
    r"superior|supera|多百分|大百分|高百分|多出|高出",
    re.IGNORECASE,
)


@cache
def words() -> dict[str, Any]:
    """The tables of `question_words.toml`."""
    return tomllib.loads(Path(__file__).with_name("question_words.toml").read_text("utf-8"))


def said(code: str, what: str) -> str:
    """What nano says in a language: yes, no, unknown, beyond, ..."""
    return str(words()["said"][code][what])


def policy_of(task: FormTask) -> Policy:
    """The oracle's turns for a task. Raises UnsolvableError where the form cannot be played."""
    return _POLICIES[task.kind](task)


def unknown_policy(task: FormTask) -> Policy:
    """For a question that no source answers."""
    results = yield from look_up([task.text.strip(_ENDS)], "Look it up.")
    if seen(results[0]) or results[0].startswith("Error"):
        raise UnsolvableError("something was found for a question without an answer")
    yield Reply(reasoning="It is not there.", content=said(task.language, "unknown"))


# --- gathering ------------------------------------------------------------------------------------


def _gather(task: FormTask, right: Callable[[list[Seen]], bool]) -> Gather:
    """The lines and the notes that the question brings; asked again in plain words if need be."""
    results = yield from look_up([task.text.strip(_ENDS)], "Look it up.")
    facts, notes = seen(results[0]), _notes(results[0])
    if right(facts):
        return facts, notes
    chained = task.kind in ("two_hop", "three_hop", "topk")
    if results[0].startswith("Error") or chained or len(task.facts) > 4:
        raise UnsolvableError("the tool does not understand the form")
    plain = [f"{fact.entity} {fact.attribute}" for fact in task.facts]
    results = yield Reply(reasoning="That is not it. Ask plainly.", calls=look(*plain))
    facts = [each for result in results for each in seen(result)[:1]]
    if not right(facts):
        raise UnsolvableError("the tool does not know the facts")
    return facts, [note for result in results for note in _notes(result)]


def _notes(result: str) -> list[str]:
    return [line for line in result.splitlines() if not seen(line)]


def _is(fact: Seen, wanted: Fact) -> bool:
    return fact.entity == wanted.entity and fact.attribute == wanted.attribute


def _first_is(task: FormTask) -> Callable[[list[Seen]], bool]:
    return lambda facts: bool(facts) and _is(facts[0], task.facts[0]) and len(facts) <= 3


def _last_is(task: FormTask) -> Callable[[list[Seen]], bool]:
    return lambda facts: bool(facts) and _is(facts[-1], task.facts[-1]) and len(facts) <= 3


def _all_are(task: FormTask) -> Callable[[list[Seen]], bool]:
    def right(facts: list[Seen]) -> bool:
        if len(facts) != len(task.facts):
            return False
        return all(any(_is(each, wanted) for each in facts) for wanted in task.facts)

    return right


def _in_order(task: FormTask) -> Callable[[list[Seen]], bool]:
    def right(facts: list[Seen]) -> bool:
        shown = facts[: len(task.facts)]
        enough = len(facts) <= max(len(task.facts), 5)
        return enough and len(shown) == len(task.facts) and all(map(_is, shown, task.facts))

    return right


def _called(fact: Seen, notes: list[str]) -> str:
    """What the question calls the entity of a fact."""
    for note in notes:
        match = _NOTE.fullmatch(note)
        if match and match[1] == fact.entity:
            return match[2]
    return fact.entity


def _verdict(notes: list[str]) -> str | None:
    return next((n.rpartition(" ")[2] for n in notes if n.endswith((" yes", " no"))), None)


# --- kinds ----------------------------------------------------------------------------------------


def _fact(task: FormTask) -> Policy:
    facts, _ = yield from _gather(task, _first_is(task))
    yield Reply(reasoning="Found it.", content=facts[0].cited)


def _year(task: FormTask) -> Policy:
    facts, _ = yield from _gather(task, _first_is(task))
    if not facts[0].year:
        raise UnsolvableError("the fact has no year")
    yield Reply(reasoning="The year is asked.", content=f"{facts[0].year}{facts[0].citation}")


def _chain(task: FormTask) -> Policy:
    facts, _ = yield from _gather(task, _last_is(task))
    yield Reply(reasoning="The last line answers.", content=facts[-1].cited)


def _reverse(task: FormTask) -> Policy:
    wanted = task.facts[0]

    def right(facts: list[Seen]) -> bool:
        if len(facts) == 1 and facts[0].attribute == f"{wanted.attribute} of":
            return facts[0].value == wanted.entity
        return 0 < len(facts) <= 12 and any(_is(each, wanted) for each in facts)

    facts, _ = yield from _gather(task, right)
    if facts[0].attribute == f"{wanted.attribute} of":
        yield Reply(reasoning="Found it.", content=facts[0].cited)
        return
    names = ", ".join(fact.entity for fact in facts)
    yield Reply(reasoning="Found it.", content=names + citations(facts))


def _yesno(task: FormTask) -> Policy:
    facts, notes = yield from _gather(task, _first_is(task))
    verdict = _verdict(notes)
    if verdict is None:
        raise UnsolvableError("the tool does not say yes or no")
    if (verdict == "yes") != task.yes:
        raise UnsolvableError("the tool is wrong")
    thought = f"The tool says {verdict}."
    yield Reply(reasoning=thought, content=f"{said(task.language, verdict)}, {facts[0].cited}")


def _yesno_compare(task: FormTask) -> Policy:
    facts, notes = yield from _gather(task, _all_are(task))
    verdict = _verdict(notes)
    if verdict is None or (verdict == "yes") != task.yes:
        raise UnsolvableError("the tool does not say it")
    answer = said(task.language, verdict) + citations(facts)
    yield Reply(reasoning=f"The tool says {verdict}.", content=answer)


def _choice(task: FormTask) -> Policy:
    """Of two or many: the tool's first line, where it is in the order that is asked for."""
    most = task.form.asks["direction"] == "most"
    pick = max if most else min
    best = pick(task.facts, key=lambda fact: float(fact.value))
    right = _all_are(task)
    facts, notes = yield from _gather(task, right)
    first = facts[0]
    if first.entity != best.entity or (len(facts) > 1 and _unsorted(facts, most)):
        pairs = ", ".join(f"({fact.number}, {fact.entity!r})" for fact in facts)
        value = yield from calculate(f"{'max' if most else 'min'}({pairs})", "Compare them.")
        first = next(fact for fact in facts if f", {fact.entity!r})" in value)
    if first.entity != best.entity:
        raise UnsolvableError("the comparison is not that of the form")
    answer = _called(first, notes) + citations(facts)
    yield Reply(reasoning=f"It is {first.entity}.", content=answer)


def _unsorted(facts: list[Seen], most: bool) -> bool:
    numbers = [float(fact.number) for fact in facts]
    return numbers != sorted(numbers, reverse=most)


def _top(task: FormTask) -> Policy:
    facts, _ = yield from _gather(task, _in_order(task))
    shown = facts[: task.count]
    names = ", ".join(fact.entity for fact in shown)
    thought = "In this order." if task.count > 1 else "The first line."
    yield Reply(reasoning=thought, content=names + citations(shown))


def _amounts(task: FormTask) -> Policy:
    """Sum, difference, share, ratio."""
    facts, _ = yield from _gather(task, _all_are(task))
    by_name = {fact.entity: fact for fact in facts}
    first, second = (by_name[wanted.entity] for wanted in task.facts)
    a, b = first.number, second.number
    ratio = f"({a} / {b} - 1)" if _GROWTH.search(task.text) else f"{a} / {b}"
    code, unit = {
        "sum": (f"round({a} + {b}, 4)" if "." in a + b else f"{a} + {b}", True),
        "difference": (f"round(abs({a} - {b}), 4)" if "." in a + b else f"abs({a} - {b})", True),
        "share": (f"round({ratio} * 100, 1)", False),
        "ratio": (f"round({a} / {b}, 2)", False),
    }[task.kind]  # fmt: skip
    value = yield from calculate(code, f"Calculate the {task.kind}.")
    name = first.value.partition(" ")[2]
    ending = f" {name}" if unit and name else " %" if task.kind == "share" else ""
    yield Reply(reasoning="Done.", content=f"{value}{ending}{citations([first, second])}")


def _unit(task: FormTask) -> Policy:
    unit = words()["units"].get(str(task.form.asks["unit"]))
    if unit is None:
        raise UnsolvableError("no such unit")
    wanted = task.facts[0]
    names = {wanted.attribute, f"{wanted.attribute} in Celsius"}
    names.add(wanted.attribute.removesuffix(" in Celsius"))

    def right(facts: list[Seen]) -> bool:
        return bool(facts) and facts[0].entity == wanted.entity and facts[0].attribute in names

    facts, _ = yield from _gather(task, right)
    number, own = facts[0].number, facts[0].value.partition(" ")[2]
    ending = unit["names"][task.language]
    if unit["factor"] == "C" and own == "C":
        yield Reply(reasoning="Found it.", content=facts[0].cited)
        return
    code = _converted(number, own, unit["factor"])
    value = yield from calculate(code, f"Convert it to {unit['names']['en']}.")
    yield Reply(reasoning="Done.", content=f"{value} {ending}{facts[0].citation}")


def _converted(number: str, own: str, factor: str) -> str:
    if factor == "C":
        return f"round({number} - 273.15, 1)"
    if factor == "F":
        celsius = number if own == "C" else f"({number} - 273.15)"
        return f"round({celsius} * 9 / 5 + 32, 1)"
    return f"round({number} {factor}, 2)"


def _table(task: FormTask) -> Policy:
    facts, _ = yield from _gather(task, lambda found: _all_are(task)(found))
    columns = [str(each) for each in task.form.asks["attributes"]]
    lines = [", ".join(["name", *columns])]
    for name in dict.fromkeys(fact.entity for fact in task.facts):
        cells = [next(f for f in facts if f.entity == name and f.attribute == c) for c in columns]
        shown = [f.number if f.number[:1].isdigit() else f.value for f in cells]
        lines.append(", ".join([name, *shown]))
    yield Reply(reasoning="Done.", content="\n".join(lines))


# --- without a look-up ----------------------------------------------------------------------------


def _calculation(task: FormTask) -> Policy:
    code = task.slots["code"]
    value = yield from calculate(code, "Calculate it.")
    yield Reply(reasoning="Done.", content=value)


def _beyond(task: FormTask) -> Policy:
    yield Reply(reasoning="I cannot do that.", content=said(task.language, "beyond"))


def _smalltalk(task: FormTask) -> Policy:
    thanks = re.search(words()["thanks"]["pattern"], task.text.casefold())
    what = "thanks" if thanks else "smalltalk"
    yield Reply(reasoning="No fact is asked for.", content=said(task.language, what))


_POLICIES: Mapping[str, Callable[[FormTask], Policy]] = {
    **dict.fromkeys(("fact", "listing", "distractor", "definition"), _fact),
    **dict.fromkeys(("two_hop", "three_hop"), _chain),
    **dict.fromkeys(("compare2", "compare_many"), _choice),
    **dict.fromkeys(("sum", "difference", "share", "ratio"), _amounts),
    **dict.fromkeys(("arithmetic", "percentage"), _calculation),
    "reverse": _reverse, "yesno": _yesno, "yesno_compare": _yesno_compare, "topk": _top,
    "table": _table, "unit": _unit, "year": _year, "beyond": _beyond, "smalltalk": _smalltalk,
}  # fmt: skip
