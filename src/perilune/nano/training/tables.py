"""How nano fills tables: row by row by itself, or split among sub-agents, one a row.

A sub-agent is made for columns (`area, mayor`) and given a name (`Tavor`); it answers with the line
that the table needs (`Tavor, 12, Kilu`), so whoever puts the table together copies reports. The
first word of the first thought says which way was taken, so that the choice is one token.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from perilune.agent.models.scripted import Call, Reply
from perilune.nano.training.policy import (
    Policy,
    Seen,
    UnsolvableError,
    comparison,
    look_up,
    searches,
    seen,
    spoken,
    wanted,
)
from perilune.swarm.state import ASSIGN, CREATE
from perilune.world.task import Task

AGENT = "row"
UNKNOWN = "unknown"
_ERROR = "Error"


def row(prompt: str) -> Policy:
    """`area, mayor`, and `Tavor` in a line of its own -> `Tavor, 12, Kilu`, a look-up a turn."""
    listed, _, name = prompt.partition("\n")
    cells = yield from _cells(name, listed.split(", "))
    yield Reply(reasoning="Done.", content=_line(name, cells))


def serial_table(task: Task) -> Policy:
    """Every cell by a look-up of its own, row after row; then the table."""
    names, labels = _asked(task)
    lines = []
    for name in names:
        cells = yield from _cells(name, labels)
        lines.append(_line(name, cells))
    yield _table(labels, lines)


def parallel_table(task: Task) -> Policy:
    """One sub-agent a row, all in one turn; then the table of their reports."""
    names, labels = _asked(task)
    reports = yield from _assign(labels, names, "the rows")
    lost = [UNKNOWN] * len(labels)
    yield _table(
        labels,
        [
            _line(name, lost) if report.startswith(_ERROR) else report
            for name, report in zip(names, reports, strict=True)
        ],
    )


def split_comparison(task: Task) -> Policy:
    """A comparison whose values sub-agents look up."""
    return comparison(task, _several_by_sub_agents)


def split_lookup(task: Task) -> Policy:
    """A single look-up, needlessly given away."""
    (want,) = wanted(task, searches(task)[0])
    (report,) = yield from _assign([want.label], [want.entity], "it")
    yield Reply(reasoning="Found it.", content=_reported(report)[1])


def _asked(task: Task) -> tuple[list[str], list[str]]:
    """Rows and columns as the prompt names them, in its order."""
    rows = [wanted(task, step) for step in searches(task)]
    labels = [spoken(want.attribute, task.prompt) for want in rows[0]]
    return [want[0].entity for want in rows], labels


def _cells(name: str, labels: Sequence[str]) -> Generator[Reply, list[str], list[str]]:
    cells = []
    for label in labels:
        (result,) = yield from look_up([f"{name} {label}"], f"Look up the {label} of {name}.")
        facts = seen(result)
        cells.append(_cell(facts[0]) if facts else UNKNOWN)
    return cells


def _cell(fact: Seen) -> str:
    """A number without its unit; other values whole."""
    return fact.number if fact.number[:1].isdigit() else fact.value


def _line(name: str, cells: Sequence[str]) -> str:
    return ", ".join([name, *cells])


def _table(labels: Sequence[str], lines: Sequence[str]) -> Reply:
    return Reply(reasoning="Done.", content="\n".join([_line("name", labels), *lines]))


def _assign(
    labels: Sequence[str], names: Sequence[str], what: str
) -> Generator[Reply, list[str], list[str]]:
    """The reports of sub-agents at work side by side; a failed one is sent once more."""
    make = Call(CREATE, {"name": AGENT, "system_prompt": ", ".join(labels)})
    _, *reports = yield Reply(reasoning=f"Split {what}.", calls=[make, *_give(names)])
    again = [i for i, report in enumerate(reports) if report.startswith(_ERROR)]
    if again:
        repeated = yield Reply(
            reasoning="That failed. Try once more.", calls=_give([names[i] for i in again])
        )
        for i, report in zip(again, repeated, strict=True):
            reports[i] = report
    return reports


def _give(names: Sequence[str]) -> list[Call]:
    return [Call(ASSIGN, {"agent": AGENT, "prompt": name}) for name in names]


def _several_by_sub_agents(
    task: Task,
) -> Generator[Reply, list[str], tuple[list[Seen], str] | None]:
    wants = [wanted(task, step)[0] for step in searches(task)]
    wants.sort(key=lambda want: task.prompt.find(want.entity))
    label = wants[0].label
    reports = yield from _assign([label], [want.entity for want in wants], "it")
    pairs = [_reported(report) for report in reports]
    return [Seen(name, label, value, 0, "") for name, value in pairs], label


def _reported(report: str) -> tuple[str, str]:
    """Name and value of a report of one value."""
    name, _, value = report.partition(", ")
    if not value or value == UNKNOWN:
        raise UnsolvableError("a sub-agent did not find its value")
    return name, value
