"""How `nano` is to solve a task: an oracle that thinks in short sentences and calls two tools.

A policy is a generator: it yields a turn, receives the results of the turn's calls as the model
would read them, and ends with an answer. It knows which facts a task is about (from the task's own
solution) but takes every value from the results, so that what it does can be learnt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from perilune.agent.models.scripted import Call, Reply
from perilune.world.schema import Attribute
from perilune.world.solution import Calculate, Search
from perilune.world.task import Task

Policy = Generator[Reply, list[str], None]
"""Yields turns; the last one answers. Receives the texts of the tool results of each turn."""

LINE = re.compile(r"(.+?) = (.*?)(?: \((\d+)\))?(?: \[(ev:[0-9a-f]+)\])?")
MOST_CITED = 4
_ERROR = "Error"


class UnsolvableError(Exception):
    """The results do not hold what the task needs; the episode is thrown away."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A fact as a result told it."""

    entity: str
    attribute: str
    value: str
    year: int
    id: str

    @property
    def number(self) -> str:
        """The value without its unit."""
        return self.value.split(" ")[0]

    @property
    def cited(self) -> str:
        return f"{self.value}{self.citation}"

    @property
    def citation(self) -> str:
        return f" [{self.id}]" if self.id else ""


def seen(result: str) -> list[Seen]:
    """The facts in a result of `lookup`."""
    facts = []
    for line in result.splitlines():
        match = LINE.fullmatch(line)
        if match and "." in match[1]:
            entity, _, attribute = match[1].rpartition(".")
            facts.append(Seen(entity, attribute, match[2], int(match[3] or 0), match[4] or ""))
    return facts


Several = Callable[[Task], Generator[Reply, list[str], tuple[list[Seen], str] | None]]
"""Gathers one fact of each entity of a task, and their label; None after giving up."""


# --- looking up -------------------------------------------------------------------------------


def look(*queries: str) -> list[Call]:
    return [Call("lookup", {"query": query}) for query in queries]


def look_up(queries: Sequence[str], thought: str) -> Generator[Reply, list[str], list[str]]:
    """Look everything up in one turn; what failed or was empty is tried once more."""
    results = yield Reply(reasoning=thought, calls=look(*queries))
    again = [i for i, result in enumerate(results) if _failed(result)]
    if again:
        said = "That failed." if results[again[0]].startswith(_ERROR) else "Nothing."
        repeated = yield Reply(
            reasoning=f"{said} Try once more.", calls=look(*(queries[i] for i in again))
        )
        for i, result in zip(again, repeated, strict=True):
            results[i] = result
    return results


def give_up(results: Sequence[str]) -> Reply | None:
    """The honest answer where something stays unknown; None where all is there."""
    for result in results:
        if result.startswith(_ERROR):
            return Reply(
                reasoning="It failed again.", content="I could not look it up: the tool failed."
            )
        if not seen(result):
            return Reply(reasoning="It is not there.", content="Unknown: no source says it.")
    return None


def _failed(result: str) -> bool:
    return result.startswith(_ERROR) or result == "Not found."


def calculate(code: str, thought: str) -> Generator[Reply, list[str], str]:
    """One expression by the python tool; an error is tried once more."""
    results = yield Reply(reasoning=thought, calls=[Call("python", {"code": code})])
    if results[0].startswith(_ERROR):
        again = Reply(
            reasoning="That failed. Try once more.", calls=[Call("python", {"code": code})]
        )
        results = yield again
    if results[0].startswith(_ERROR):
        raise UnsolvableError("the calculator failed twice")
    return results[0]


def citations(facts: Sequence[Seen]) -> str:
    return "".join(fact.citation for fact in facts) if len(facts) <= MOST_CITED else ""


# --- words of the question ----------------------------------------------------------------------


def spoken(attribute: Attribute, prompt: str) -> str:
    """The label that the prompt uses; the longest where one is part of another."""
    text = prompt.casefold()
    said = [label for label in attribute.labels if label.casefold() in text]
    return max(said, key=len, default=attribute.labels[0])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A fact that a step of the task's solution reads."""

    entity: str
    attribute: Attribute
    label: str


def wanted(task: Task, step: Search) -> list[Wanted]:
    facts = []
    for read in step.reads:
        entity, _, name = read.fact.rpartition(".")
        attribute = task.world.kind_of(entity).attribute(name)
        facts.append(Wanted(entity, attribute, spoken(attribute, task.prompt)))
    return facts


def searches(task: Task) -> list[Search]:
    return [step for step in task.solution.serial if isinstance(step, Search)]


# --- families -----------------------------------------------------------------------------------


def lookup(task: Task) -> Policy:
    (want,) = wanted(task, searches(task)[0])
    results = yield from look_up(
        [f"{want.entity} {want.label}"], f"Look up the {want.label} of {want.entity}."
    )
    missing = give_up(results)
    if missing:
        yield missing
        return
    yield Reply(reasoning="Found it.", content=seen(results[0])[0].cited)


def unanswerable(task: Task) -> Policy:
    words = searches(task)[0].query.split(" ")
    name = words[0]
    label = _unanswered_label(task, " ".join(words[1:]))
    results = yield from look_up([f"{name} {label}"], f"Look up the {label} of {name}.")
    missing = give_up(results)
    if missing is None:
        raise UnsolvableError("something was found for a question without an answer")
    yield missing


def _unanswered_label(task: Task, first: str) -> str:
    from perilune.world.schema import KINDS

    for kind in KINDS.values():
        for attribute in kind.attributes:
            if attribute.labels[0] == first and spoken(attribute, task.prompt) != first:
                return spoken(attribute, task.prompt)
    return first


def reverse_lookup(task: Task) -> Policy:
    (want,) = wanted(task, searches(task)[0])
    value = task.solution.serial[0].reads[0].value  # type: ignore[union-attr]
    kind = task.world.kind_of(want.entity).name
    number = value.split(" ")[0]
    results = yield from look_up(
        [f"{kind} {want.label} {number}"], f"Find the {kind} with {want.label} {value}."
    )
    found = seen(results[0])
    answer = next((fact for fact in found if fact.entity == want.entity), None)
    if answer is None:
        raise UnsolvableError("the entity is not among the facts shown")
    thought = "Found it." if len(found) == 1 else f"It is {answer.entity}."
    yield Reply(reasoning=thought, content=f"{answer.entity}{answer.citation}")


def hops(task: Task) -> Policy:
    chain = [wanted(task, step)[0] for step in searches(task)]
    plan = ", ".join(want.label for want in chain)
    name = chain[0].entity
    thought = f"Start at {name}: {plan}."
    fact = None
    for want in chain:
        results = yield from look_up([f"{name} {want.label}"], thought)
        missing = give_up(results)
        if missing:
            yield missing
            return
        fact = seen(results[0])[0]
        name = fact.value
        thought = f"The {want.label} is {name}."
    assert fact is not None
    yield Reply(reasoning="Found it.", content=fact.cited)


def _several(task: Task) -> Generator[Reply, list[str], tuple[list[Seen], str] | None]:
    """The one fact of each entity, looked up side by side; None after giving up."""
    wants = [wanted(task, step)[0] for step in searches(task)]
    wants.sort(key=lambda want: task.prompt.find(want.entity))
    label = wants[0].label
    names = [want.entity for want in wants]
    results = yield from look_up(
        [f"{name} {label}" for name in names], f"Look up the {label} of each."
    )
    missing = give_up(results)
    if missing:
        yield missing
        return None
    return [seen(result)[0] for result in results], label


def arithmetic(task: Task) -> Policy:
    got = yield from _several(task)
    if got is None:
        return
    facts, _ = got
    if task.variant == "ratio":
        # As many times b as a is: the first of the solution is above the line.
        above = wanted(task, searches(task)[0])[0].entity
        facts.sort(key=lambda fact: fact.entity != above)
    numbers = [fact.number for fact in facts]
    added, listed = " + ".join(numbers), ", ".join(numbers)
    code = {
        "sum": added,
        "mean": f"round(({added}) / {len(numbers)}, 2)",
        "ratio": f"round({numbers[0]} / {numbers[-1]}, 2)",
        "difference": f"max({listed}) - min({listed})",
        "range": f"max({listed}) - min({listed})",
    }[task.variant]
    value = yield from calculate(code, f"Calculate the {task.variant}.")
    unit = facts[0].value.partition(" ")[2] or "years"
    amount = value if task.variant == "ratio" else f"{value} {unit}"
    yield Reply(reasoning="Done.", content=amount + citations(facts))


def comparison(task: Task, several: Several | None = None) -> Policy:
    """`several` gathers the facts; left out, they are looked up side by side."""
    got = yield from (several or _several)(task)
    if got is None:
        return
    facts, _ = got
    ranked = sorted(facts, key=lambda fact: float(fact.number))
    pairs = ", ".join(f"({fact.number}, {fact.entity!r})" for fact in facts)
    if task.variant == "count":
        limit = _limit(task)
        code = f"sum(x > {limit} for x in ({', '.join(fact.number for fact in facts)}))"
        value = yield from calculate(code, f"Count those above {limit}.")
        yield Reply(reasoning="Done.", content=value + citations(facts))
        return
    downward = _downward(task, [fact.entity for fact in ranked])
    if task.variant == "largest":
        code = f"{'max' if downward else 'min'}({pairs})"
    elif task.variant == "second":
        code = f"sorted([{pairs}])[{-2 if downward else 1}]"
    else:
        code = f"sorted([{pairs}]{', reverse=True' if downward else ''})"
    value = yield from calculate(code, "Compare them.")
    names = re.findall(r"'([^']*)'", value)
    # All that were compared are cited, in their order: to copy them so is learnt long before
    # finding the id that belongs to the one that was chosen.
    yield Reply(reasoning="Done.", content=", ".join(names) + citations(facts))


def _limit(task: Task) -> str:
    """The limit that the prompt names: the number behind "above", "than" or "exceed"."""
    match = re.search(r"(?:above|than|exceeds?) (\d+)", task.prompt)
    if match is None:
        raise UnsolvableError("the prompt names no limit")
    return match[1]


def _downward(task: Task, ascending: list[str]) -> bool:
    """Whether the largest comes first, told from the answer."""
    if task.variant == "order":
        return task.answer.split(", ")[0] == ascending[-1]
    if task.variant == "second":
        return task.answer == ascending[-2]
    return task.answer == ascending[-1]


def selection(task: Task) -> Policy:
    if task.variant == "select_related":
        step = searches(task)[0]
        want = wanted(task, step)[0]
        kind = task.world.kind_of(want.entity).name
        value = step.reads[0].value
        results = yield from look_up(
            [f"{kind} {want.label} {value}"], f"Find each {kind} with {want.label} {value}."
        )
        found = seen(results[0])
        if {fact.entity for fact in found} != {read.fact.rpartition(".")[0] for read in step.reads}:
            raise UnsolvableError("not all of them are shown")
        names = ", ".join(fact.entity for fact in found)
        yield Reply(reasoning="Found them.", content=names + citations(found))
        return
    got = yield from _several(task)
    if got is None:
        return
    facts, _ = got
    if task.variant == "select_above":
        limit = _limit(task)
        pairs = ", ".join(f"({fact.number}, {fact.entity!r})" for fact in facts)
        code = f"[n for x, n in [{pairs}] if x > {limit}]"
        value = yield from calculate(code, f"Keep those above {limit}.")
        names_ = re.findall(r"'([^']*)'", value)
    else:
        names_ = task.answer.split(", ")
    yield Reply(reasoning="Done.", content=", ".join(names_) + citations(facts))


def conflict(task: Task) -> Policy:
    step = searches(task)[0]
    want = wanted(task, step)[0]
    query = f"{want.entity} {want.label}"
    if task.variant == "attributed":
        source = step.query.removesuffix(f"{want.entity} {want.attribute.labels[0]}").strip()
        results = yield from look_up(
            [f"{source} {query}"], f"Look up the {want.label} of {want.entity} in the {source}."
        )
        yield Reply(reasoning="Found it.", content=seen(results[0])[0].cited)
        return
    results = yield from look_up([query], f"Look up the {want.label} of {want.entity}.")
    facts = seen(results[0])
    if len(facts) != len(step.reads):
        raise UnsolvableError("not all sources are shown")
    if task.variant == "latest":
        latest = max(facts, key=lambda fact: fact.year)
        yield Reply(reasoning=f"The latest is of {latest.year}.", content=latest.cited)
        return
    assert any(isinstance(each, Calculate) for each in task.solution.serial)
    listed = ", ".join(fact.number for fact in facts)
    value = yield from calculate(f"max({listed}) - min({listed})", "Calculate the range.")
    unit = facts[0].value.partition(" ")[2] or "years"
    yield Reply(reasoning="Done.", content=f"{value} {unit}{citations(facts)}")


POLICIES = {
    policy.__name__: policy
    for policy in (
        lookup,
        unanswerable,
        reverse_lookup,
        hops,
        arithmetic,
        comparison,
        selection,
        conflict,
    )
}
"""The families of `perilune.world` that nano plays."""
