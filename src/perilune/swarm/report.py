"""How the outcome of an assignment is put to the orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perilune.swarm.assignment import Assignment, Outcome
from perilune.swarm.deliveries import shorten

WORDS = {
    "unverified": "answered, but a check objects",
    "nonsense": "returned nonsense",
    "looped": "kept repeating itself and was stopped",
    "budget": "ran out of its budget",
    "hung": "hung and was stopped",
    "died": "died",
    "stopped": "was stopped",
}
SHOWN_SOURCES = 20


def worded_report(
    assignment: Assignment,
    outcome: Outcome,
    shown: str | None,
    report: Path,
    place: str,
    evidence: Sequence[str],
) -> str:
    """What was `shown` of the report, how its work ended, and what else there is of it.

    `report` is the file with the whole of it; `place` says where one is that is not shown at all.
    """
    lines: list[str] = []
    if outcome.status != "done":
        why = f": {outcome.detail}" if outcome.detail else ""
        lines.append(
            f"[{assignment.folder} {WORDS[outcome.status]}{why}. "
            f"{outcome.steps} steps, {outcome.tool_calls} tool calls.]"
        )
        if not outcome.ok and outcome.report:
            lines.append("What it had:")
    if shown is None:
        lines.append(f"[{assignment.folder}: {len(outcome.report)} characters, {place}]")
    elif shown:
        lines.append(shown)
        if shown != outcome.report:
            lines.append(f"[The whole report, {len(outcome.report)} characters: {report}]")
    if evidence:
        more = f" and {len(evidence) - SHOWN_SOURCES} more" * (len(evidence) > SHOWN_SOURCES)
        cited = ", ".join(f"[{each}]" for each in evidence[:SHOWN_SOURCES])
        lines.append(f"Sources: {cited}{more}")
    if outcome.files:
        place = str(report.with_suffix(""))
        lines.append(f"Files, in {place}: {shorten(', '.join(outcome.files), 1000)}")
    return "\n".join(lines) or f"[{assignment.folder} ended without a word]"


def compact_report(outcome: Outcome, shown: str | None) -> str:
    """The report and nothing else, or how its work failed, in few tokens."""
    if not outcome.ok:
        return f"Error: the sub-agent {WORDS[outcome.status]}."
    if shown is None:
        return "Error: there is no room for the report."
    return shown
