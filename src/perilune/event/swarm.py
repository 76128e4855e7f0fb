"""The durable events of a swarm: what its orchestrator adds to a run's."""

from __future__ import annotations

from typing import Literal

from perilune.event.parts import Event, Usage

AssignmentStatus = Literal[
    "running", "done", "unverified", "nonsense", "looped", "budget", "hung", "died", "stopped"
]


class SubAgentCreated(Event, frozen=True, kw_only=True, tag="agent.created"):
    """The orchestrator made a kind of sub-agent; tasks are assigned to it by its name."""

    name: str
    system_prompt: str


class AssignmentFinished(Event, frozen=True, kw_only=True, tag="assignment.finished"):
    """A sub-agent's work on one prompt ended; the sub-agent's own journal is in `folder`.

    `steps`, `tool_calls` and `usage` are what this assignment took; `began` and `ended` are seconds
    since 1970. `report` names the file of the whole report; `waiting` says that the orchestrator
    was not shown it yet.
    """

    call_id: str
    sub_agent: str
    folder: str
    status: AssignmentStatus
    detail: str = ""
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    began: float = 0.0
    ended: float = 0.0
    evidence: list[str] = []
    files: list[str] = []
    report: str = ""
    waiting: bool = False


class ReportsCollected(Event, frozen=True, kw_only=True, tag="reports.collected"):
    """The orchestrator was shown reports that had waited, by the call ids of their assignments."""

    call_ids: list[str] = []
