"""Faults planted into right runs: what a model that reads or copies badly would have answered.

Each kind changes one thing and lets the rest follow, as it would in a run: a wrong operand gives
another result of the code, another row is cited by its own id. Nothing here knows how checks work.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from perilune.nano.training.calculator import shown_value
from perilune.search.almanac import open_almanac
from perilune.search.almanac.text import key
from tests.agent.checks.replay import RunLine

LINE = re.compile(r"^(.+?)\.([^.=]+?) = (.*?)(?: \((\d+)\))? \[(ev:[0-9a-f]+)\]$", re.M)
UNITS = (
    "km",
    "m",
    "km2",
    "people",
    "%",
    "crowns",
    "knots",
    "°C",
    "kg/m3",
    "US dollars",
    "years",
    "cm",
)
UNKNOWN = ("Unknown: no source says it.", "No source says it.", "It is not known.")


def answer_parts(run: RunLine) -> tuple[str, str]:
    """The answer without its citations, and those."""
    match = re.match(r"(.*?)((?:\s*\[ev:[0-9a-f]+\])*)\s*$", run["answer"], re.S)
    assert match is not None
    return match[1], match[2]


def lines_of(run: RunLine) -> list[tuple[str, str, str, str, str]]:
    """Entity, attribute, value, year and id of each line that `lookup` gave."""
    return [each for call in run["calls"] for each in LINE.findall(call["result"])]


def changed(run: RunLine, answer: str, **more: Any) -> RunLine:
    return copy.deepcopy(run) | {"answer": answer} | more


def _number(text: str) -> re.Match[str] | None:
    return re.match(r"-?\d+(?:\.\d+)?(?=\s|$)", text)


# --- kinds ----------------------------------------------------------------------------------------


def digits(run: RunLine, rng: random.Random) -> RunLine | None:
    """A digit lost, doubled, exchanged or changed; or the end of the number lost."""
    text, cited = answer_parts(run)
    match = _number(text)
    if match is None or "Unknown" in text:
        return None
    wrong = slip(match[0], rng)
    if wrong is None:
        return None
    return changed(run, f"{wrong}{text[match.end() :]}{cited}")


def slip(number: str, rng: random.Random) -> str | None:
    """Another number, as a bad copy of this one."""
    for _ in range(20):
        at = rng.randrange(len(number))
        kind = rng.choice(("drop", "double", "swap", "change", "cut"))
        if not number[at].isdigit():
            continue
        wrong = {
            "drop": number[:at] + number[at + 1 :],
            "double": number[:at] + number[at] + number[at:],
            "swap": number[: at - 1] + number[at] + number[at - 1] + number[at + 1 :] if at else "",
            "change": number[:at] + rng.choice("0123456789") + number[at + 1 :],
            "cut": number[: max(1, len(number) - rng.randint(1, 3))],
        }[kind]
        try:
            places = len(wrong.partition(".")[2])
            if wrong and wrong[-1] != "." and float(wrong) != round(float(number), places):
                return wrong
        except ValueError:
            continue
    return None


def operand(run: RunLine, rng: random.Random) -> RunLine | None:
    """A number is copied badly into the code, and the answer follows from it."""
    place = next((i for i, c in enumerate(run["calls"]) if c["name"] == "python"), None)
    if place is None:
        return None
    code = str(run["calls"][place]["arguments"].get("code", ""))
    text, cited = answer_parts(run)
    for _ in range(30):
        found = list(re.finditer(r"(?<![\w.'])\d{3,}(?:\.\d+)?(?![\w.])", code))
        if not found:
            return None
        match = rng.choice(found)
        wrong = slip(match[0], rng)
        if wrong is None:
            continue
        result = _run(code[: match.start()] + wrong + code[match.end() :])
        answer = _follows(text, run["calls"][place]["result"], result)
        if result and answer and key(answer) != key(text):
            bad = changed(run, answer + cited)
            bad["calls"][place] |= {
                "arguments": {"code": code[: match.start()] + wrong + code[match.end() :]},
                "result": result,
            }
            return bad
    return None


def direction(run: RunLine, rng: random.Random) -> RunLine | None:
    """The smallest instead of the largest, the other way round, another order."""
    place = next((i for i, c in enumerate(run["calls"]) if c["name"] == "python"), None)
    if place is None:
        return None
    code = str(run["calls"][place]["arguments"].get("code", ""))
    flip = {"max": "min", "min": "max", "-2": "1", "[1]": "[-2]", " > ": " < "}
    wrong = re.sub(r"^(?:max|min)(?=\(\()|(?<=\[)-2(?=\])|\[1\]$| > ", lambda m: flip[m[0]], code)
    if code.startswith("sorted(") and wrong == code and "[" not in code[-4:]:
        wrong = (
            code.replace(", reverse=True", "")
            if "reverse" in code
            else code[:-1] + ", reverse=True)"
        )
    result = _run(wrong)
    text, cited = answer_parts(run)
    answer = _follows(text, run["calls"][place]["result"], result)
    if wrong == code or not result or not answer or key(answer) == key(text):
        return None
    bad = changed(run, answer + cited)
    bad["calls"][place] |= {"arguments": {"code": wrong}, "result": result}
    return bad


def _run(code: str) -> str:
    try:
        return shown_value(code)
    except Exception:  # the code is not one that the calculator knows
        return ""


def _follows(text: str, before: str, after: str) -> str:
    """The answer, where it repeats what the code printed."""
    if not after or after.startswith("Error"):
        return ""
    if "'" in after:
        return ", ".join(re.findall(r"'([^']*)'", after))
    return text.replace(before.strip(), after.strip(), 1) if before.strip() in text else ""


def other_row(run: RunLine, rng: random.Random) -> RunLine | None:
    """The value of the same attribute, of another entity, which was looked up as well."""
    lines = lines_of(run)
    text, _ = answer_parts(run)
    last = next((each for each in lines if each[2] == text), None)
    if last is None:
        return None
    rows = [
        each
        for each in pool()
        if each["attribute"] == last[1]
        and each["entity"] != last[0]
        and each["value"] != last[2]
        and key(each["entity"]) not in key(run["question"])
        and key(each["value"]) not in key(run["question"])
        and bool(each["address"].startswith("almanac")) == _is_almanac(run)
        and each["entity"] not in {line[2] for line in lines} | {line[0] for line in lines}
    ]
    return _with_row(run, rng.choice(rows), rng) if rows else None


def other_attribute(run: RunLine, rng: random.Random) -> RunLine | None:
    """Another attribute of the same entity, looked up by its own name."""
    lines = lines_of(run)
    text, _ = answer_parts(run)
    last = next((each for each in lines if each[2] == text), None)
    if last is None:
        return None
    rows = [
        each
        for each in _of_entity(run, last[0])
        if each["attribute"] != last[1]
        and each["value"] != last[2]
        and not _akin(each["attribute"], last[1])
        and key(each["value"]) not in key(run["question"])
    ]
    return _with_row(run, rng.choice(rows), rng) if rows else None


def _akin(one: str, other: str) -> bool:
    """Attributes whose values may pass for each other: languages and demonym, two codes."""
    return bool(set(key(one).split()) & set(key(other).split()))


def _of_entity(run: RunLine, entity: str) -> list[dict[str, str]]:
    if not _is_almanac(run):
        return [each for each in pool() if each["entity"] == entity]
    address = next(s["source"] for s in run["sources"] if s["title"] == entity)
    rows = []
    for fact in open_almanac().facts_of(address):
        value = f"{fact.value} {fact.unit}".strip()
        if len(value) <= 60:
            rows.append(
                {
                    "entity": fact.entity,
                    "attribute": fact.attribute,
                    "value": value,
                    "year": str(fact.year),
                    "address": address,
                }
            )
    return rows


def _with_row(run: RunLine, row: dict[str, str], rng: random.Random) -> RunLine:
    """The run with one more look-up, whose value is answered."""
    id_ = f"ev:{rng.randrange(16**4):04x}"
    dated = f" ({row['year']})" if row["year"] else ""
    line = f"{row['entity']}.{row['attribute']} = {row['value']}{dated}"
    bad = changed(run, f"{row['value']} [{id_}]")
    query = f"{row['entity']} {row['attribute']}"
    bad["calls"].append(
        {"name": "lookup", "arguments": {"query": query}, "result": f"{line} [{id_}]"}
    )
    source = {"id": id_, "source": row["address"], "title": row["entity"], "text": line}
    bad["sources"].append(source)
    return bad


def other_entity(run: RunLine, rng: random.Random) -> RunLine | None:
    """Another name: one that was compared, or another one with the same kind of value."""
    text, cited = answer_parts(run)
    lines = lines_of(run)
    entities = {each[0] for each in lines}
    named = re.split(r", ", text)
    if not set(named) <= entities or not lines:
        return None
    others = sorted(entities - set(named))
    if others:
        wrong = list(named)
        wrong[rng.randrange(len(wrong))] = rng.choice(others)
        return changed(run, ", ".join(wrong) + cited)
    rows = [
        each
        for each in pool()
        if each["attribute"] == lines[-1][1]
        and each["value"] != lines[-1][2]
        and each["entity"] not in entities
        and not _is_almanac(run)
        and key(each["entity"]) not in key(run["question"])
    ]
    if not rows:
        return None
    row = rng.choice(rows)
    bad = _with_row(run, row, rng)
    return changed(bad, f"{row['entity']} [{bad['sources'][-1]['id']}]")


def unit(run: RunLine, rng: random.Random) -> RunLine | None:
    """The right number with a unit that it has not."""
    text, cited = answer_parts(run)
    match = _number(text)
    its = text[match.end() :].strip() if match else ""
    if match is None or its not in UNITS:
        return None
    wrong = rng.choice([each for each in UNITS if each != its])
    return changed(run, f"{match[0]} {wrong}{cited}")


def year(run: RunLine, rng: random.Random) -> RunLine | None:
    """The value of another year, or of another source."""
    text, _ = answer_parts(run)
    lines = lines_of(run)
    last = next((each for each in lines if each[2] == text and each[3]), None)
    if last is None or not re.search(r"\b(?:latest|recent|newest|of \d{4})\b", run["question"]):
        return None
    others = [e for e in lines if e[:2] == last[:2] and e[2] != last[2]]
    if others:
        other = rng.choice(others)
        return changed(run, f"{other[2]} [{other[4]}]")
    wrong = slip(last[2].split()[0], rng)
    if wrong is None:
        return None
    row = {
        "entity": last[0],
        "attribute": last[1],
        "value": " ".join([wrong, *last[2].split()[1:]]),
        "year": str(int(last[3]) + rng.randint(1, 30)),
        "address": "world:x",
    }
    return _with_row(run, row, rng)


def unknown(run: RunLine, rng: random.Random) -> RunLine | None:
    """ "No source says it" after queries that do not hold what was asked."""
    lines = lines_of(run)
    if not lines or any(c["name"] == "python" for c in run["calls"]):
        return None
    name = lines[0][0]
    other = rng.choice([e for e in pool() if key(e["entity"]) not in key(run["question"])])
    query = run["calls"][0]["arguments"].get("query", "")
    named = re.search(re.escape(name), query, re.I)
    if named is None or key(name) not in key(run["question"]):
        return None
    kind = rng.choice(("other name", "garbled", "other words"))
    wrong = {
        "other name": query.replace(named[0], other["entity"]),
        "garbled": query.replace(named[0], garbled(named[0], rng)),
        "other words": f"{name} {rng.choice(('colour of the flag', 'nickname', 'shoe size', 'motto'))}",  # noqa: E501
    }[kind]
    call = {"name": "lookup", "arguments": {"query": wrong}, "result": "Not found."}
    return changed(run, rng.choice(UNKNOWN), calls=[call], sources=[])


def garbled(name: str, rng: random.Random) -> str:
    """A name of which half is lost."""
    letters = [each for each in name if each != " "]
    kept = letters[: max(2, len(letters) // 3)]
    return "".join(kept) + "".join(
        rng.choice("aeioukrtn") for _ in range(max(3, len(letters) // 2))
    )


def cut_name(run: RunLine, rng: random.Random) -> RunLine | None:
    """A name or word that lost its end, its beginning, or letters within."""
    text, cited = answer_parts(run)
    lines = lines_of(run)
    if "," in text or not any(text in (each[0], each[2]) for each in lines) or len(text) < 5:
        return None
    if re.search(r"\d", text):
        return None
    at = rng.randrange(2, len(text) - 1)
    wrong = rng.choice(
        [text[:at], text[: at - 1] + text[at + 1 :], text[rng.randrange(1, 3) :]]
    ).strip()
    known = {key(each) for line in lines for each in (line[0], line[2])}
    return (
        None
        if len(wrong) < 2 or key(wrong) in known or key(wrong) == key(text)
        else changed(run, wrong + cited)
    )


def half_way(run: RunLine, rng: random.Random) -> RunLine | None:
    """The entity found on the way instead of its value."""
    lines = lines_of(run)
    text, _ = answer_parts(run)
    if len(lines) < 2 or any(c["name"] == "python" for c in run["calls"]) or lines[-1][2] != text:
        return None
    between = [each for each in lines[:-1] if each[2] != text and each[2] in {e[0] for e in lines}]
    if not between:
        return None
    row = rng.choice(between)
    return changed(run, f"{row[2]} [{row[4]}]", calls=run["calls"])


KINDS: dict[str, Callable[[RunLine, random.Random], RunLine | None]] = {
    "digits": digits,
    "operand": operand,
    "direction": direction,
    "other row": other_row,
    "other attribute": other_attribute,
    "other entity": other_entity,
    "unit": unit,
    "year": year,
    "unknown after another query": unknown,
    "cut name": cut_name,
    "half way": half_way,
}


# --- all ------------------------------------------------------------------------------------------


def _is_almanac(run: RunLine) -> bool:
    return any(each["source"].startswith("almanac:") for each in run["sources"])


@lru_cache(maxsize=1)
def pool() -> list[dict[str, str]]:
    """Rows of all recorded runs."""
    from tests.agent.checks.replay import read_runs

    rows = {}
    for run in read_runs():
        address = {each["id"]: each["source"] for each in run["sources"]}
        for entity, attribute, value, its_year, id_ in lines_of(run):
            rows[entity, attribute, value] = {
                "entity": entity,
                "attribute": attribute,
                "value": value,
                "year": its_year,
                "address": address.get(id_, ""),
            }
    return list(rows.values())


def planted(runs: list[RunLine], count: int, seed: int = 0) -> Iterator[tuple[str, RunLine]]:
    """`count` wrong runs, the kinds in turn."""
    rng = random.Random(f"wrong copies {seed}")
    made, turn, misses = 0, 0, 0
    while made < count and misses < 20_000:
        kind = list(KINDS)[turn % len(KINDS)]
        run = rng.choice(runs)
        bad = KINDS[kind](run, rng)
        if bad is None or bad["answer"] == run["answer"]:
            misses += 1
            if misses % 400 == 0:
                turn += 1
            continue
        made, turn = made + 1, turn + 1
        yield kind, bad
