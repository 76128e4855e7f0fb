"""A swarm run read back from its journals: who did what, when, and what the wall time hung on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perilune.agent.journal.journal import FILE_NAME, read_journal
from perilune.errors import UsageError
from perilune.events import AssistantMessage, Record, RunFinished, ToolFinished, ToolStarted
from perilune.swarm.assignment import folder_name
from perilune.swarm.state import ASSIGN, AssignmentState, SwarmState, fold_swarm


@dataclass(frozen=True, slots=True)
class Span:
    """What an agent did from `began` to `ended`, in seconds since 1970."""

    kind: Literal["model", "tools"]
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One agent's time. `critical`: the swarm waited for this one last in its stage."""

    name: str
    spans: list[Span]
    began: float
    ended: float
    critical: bool
    assignment: AssignmentState | None = None


@dataclass(frozen=True, slots=True)
class SwarmTrace:
    """The orchestrator's lane first, then those of its assignments in order."""

    state: SwarmState
    lanes: list[Lane]

    @property
    def critical_seconds(self) -> float:
        """The orchestrator's own time and the last sub-agent of each stage."""
        return sum(span.ended - span.began for span in self.lanes[0].spans) + sum(
            lane.ended - lane.began for lane in self.lanes[1:] if lane.critical
        )


def is_swarm(folder: Path) -> bool:
    """Whether the run in a folder has sub-agents."""
    return (folder / "swarm").is_dir()


def read_trace(folder: Path) -> SwarmTrace:
    """The trace of the run in `folder`. Raises `UsageError` when it is not a swarm's."""
    records = read_journal(folder).records
    state = fold_swarm(records)
    if not state.assignments and not state.agents:
        raise UsageError(
            f"run {folder.name} has no sub-agents", remedy="Start one with `perilune run --swarm`."
        )
    last = {max(stage, key=lambda each: each.ended).call_id for stage in state.stages().values()}
    lanes = [Lane("orchestrator", _spans(records), state.began, state.ended, critical=True)]
    for each in state.assignments.values():
        name = each.finished.folder if each.finished else folder_name(each.agent, each.call_id)
        inner = folder / "swarm" / name
        own = read_journal(inner).records if (inner / FILE_NAME).exists() else []
        # A folder that a later assignment went on in holds the records of both.
        began, ended = each.began, max(each.ended, each.began)
        spans = _within(_spans(own), _ahead(each), began, ended)
        lanes.append(Lane(name, spans, began, ended, each.call_id in last, each))
    return SwarmTrace(state, lanes)


def _ahead(each: AssignmentState) -> float:
    """By how much the clock of a sub-agent's machine is ahead of the orchestrator's."""
    return each.finished.ended - each.ended if each.finished and each.finished.ended > 0 else 0.0


def _within(spans: list[Span], ahead: float, began: float, ended: float) -> list[Span]:
    """The spans that fall into a lane, on its clock, cut off at its ends."""
    kept = []
    for span in spans:
        first, last = max(began, span.began - ahead), min(ended, span.ended - ahead)
        if first <= last:
            kept.append(Span(span.kind, first, last))
    return kept


def _spans(records: Sequence[Record]) -> list[Span]:
    """A model works until its message; tools work from their start until the last has ended."""
    spans: list[Span] = []
    since = records[0].time if records else 0.0
    open_calls: dict[str, float] = {}
    for record in records:
        when = max(since, record.time)  # a wall clock may have been set back
        match record.event:
            case AssistantMessage():
                spans.append(Span("model", since, when))
            case ToolStarted(name=name, call_id=call_id) if name != ASSIGN:
                open_calls[call_id] = when
            case ToolFinished(call_id=call_id) if call_id in open_calls:
                began = open_calls.pop(call_id)
                spans.append(Span("tools", began, when))
            case RunFinished():
                pass
            case _:
                pass
        since = when
    return spans
