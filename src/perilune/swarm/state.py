"""What a swarm is doing, as a fold of its orchestrator's events: agents, assignments, steps.

The living swarm, its result, a resumed swarm and every view fold the same records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from perilune.events import (
    AssignmentFinished,
    AssignmentProgress,
    AssignmentStatus,
    AssistantMessage,
    Compacted,
    Record,
    ReportsCollected,
    RunFinished,
    RunStarted,
    SubAgentCreated,
    ToolFinished,
    ToolStarted,
    Usage,
)
from perilune.swarm.assignment import FAILED
from perilune.world.solution import critical_steps

CREATE, ASSIGN = "create_subagent", "assign_task"


@dataclass(slots=True)
class AssignmentState:
    """One assignment, as far as it is known. `stage` is the orchestrator's step that gave it."""

    call_id: str
    agent: str
    prompt: str
    stage: int
    began: float
    ended: float = 0.0
    status: AssignmentStatus = "running"
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    finished: AssignmentFinished | None = None

    @property
    def name(self) -> str:
        return self.finished.folder if self.finished else self.agent

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.began)


@dataclass(slots=True)
class SwarmState:
    """The fold. `agents` are system prompts by name, `assignments` by call id, in order."""

    run: str = ""
    task: str = ""
    agents: dict[str, str] = field(default_factory=dict)
    assignments: dict[str, AssignmentState] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    main_steps: int = 0
    main_tool_calls: int = 0
    main_usage: Usage = field(default_factory=Usage)
    turns: list[float] = field(default_factory=list)
    """When each of the orchestrator's completions ended."""
    began: float = 0.0
    ended: float = 0.0
    finished: RunFinished | None = None
    _now: float = 0.0

    def apply(self, record: Record) -> None:
        """Fold one record of the orchestrator in."""
        event = record.event
        self.run = record.run
        # Only forward, whatever the clocks of old journals and of other machines did.
        self._now = when = max(self._now, record.time)
        if record.seq:
            self.ended = when
        match event:
            case RunStarted():
                self.began = when
                self.task = event.task if isinstance(event.task, str) else ""
            case AssistantMessage():
                self.main_steps += 1
                self.main_usage += event.usage
                self.turns.append(when)
                self.finished = None
            case Compacted():
                self.main_usage += event.usage
            case ToolStarted(name="assign_task"):
                self._started(event, when)
            case ToolStarted(name=name) if name != CREATE:
                self.main_tool_calls += 1
            case SubAgentCreated():
                self.agents[event.name] = event.system_prompt
            case AssignmentProgress():
                known = self.assignments.get(event.call_id)
                if known is not None:
                    known.steps, known.tool_calls = event.steps, event.tool_calls
                    known.usage = event.usage
                    known.ended = when
            case AssignmentFinished():
                self._ended(event, when)
            case ReportsCollected(call_ids=collected):
                self.waiting = [each for each in self.waiting if each not in collected]
            case ToolFinished(call_id=call_id, outcome=outcome) if call_id in self.assignments:
                known = self.assignments[call_id]
                if known.status == "running" and outcome in ("error", "refused", "denied"):
                    del self.assignments[call_id]  # it never began
                elif known.status == "running":  # cut off before its end could be said
                    known.status = "stopped" if outcome == "cancelled" else "died"
                    known.ended = when
            case RunFinished():
                self.finished = event

    # --- numbers ---

    @property
    def critical_steps(self) -> int:
        """Sum over stages of the main steps and the longest sub-agent (arXiv 2602.02276)."""
        stages = self.stages()
        alone = self.main_steps - len(stages)
        return alone + critical_steps(
            [1] * len(stages), [[each.steps for each in stage] for stage in stages.values()]
        )

    @property
    def serial_steps(self) -> int:
        """The steps that one agent after another would have taken."""
        return self.main_steps + sum(each.steps for each in self.assignments.values())

    @property
    def tool_calls(self) -> int:
        return self.main_tool_calls + sum(each.tool_calls for each in self.assignments.values())

    @property
    def usage(self) -> Usage:
        return sum((each.usage for each in self.assignments.values()), self.main_usage)

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.began)

    def serial_seconds(self) -> float:
        """The time that the same work would have taken one after another."""
        together = sum(
            max(each.began + each.seconds for each in stage) - min(each.began for each in stage)
            for stage in self.stages().values()
        )
        alone = max(0.0, self.seconds - together)
        return alone + sum(each.seconds for each in self.assignments.values())

    def stages(self) -> dict[int, list[AssignmentState]]:
        """The assignments by the orchestrator's step that gave them."""
        stages: dict[int, list[AssignmentState]] = {}
        for each in self.assignments.values():
            stages.setdefault(each.stage, []).append(each)
        return stages

    def running(self) -> list[AssignmentState]:
        return [each for each in self.assignments.values() if each.status == "running"]

    def earlier(self, agent: str, prompt: str) -> AssignmentState | None:
        """The last finished assignment of this prompt to this agent, if any."""
        same = [
            each
            for each in self.assignments.values()
            if (each.agent, each.prompt) == (agent, prompt) and each.finished is not None
        ]
        return same[-1] if same else None

    def missing(self) -> list[AssignmentState]:
        """Failed assignments that no later one of the same prompt made good."""
        made_good = {
            (each.agent, each.prompt)
            for each in self.assignments.values()
            if each.status not in FAILED and each.status != "running"
        }
        seen: set[tuple[str, str]] = set()
        gaps = []
        for each in self.assignments.values():
            key = (each.agent, each.prompt)
            if each.status in FAILED and key not in made_good and key not in seen:
                seen.add(key)
                gaps.append(each)
        return gaps

    def _started(self, event: ToolStarted, when: float) -> None:
        agent, prompt = str(event.arguments.get("agent")), str(event.arguments.get("prompt"))
        known = self.assignments.get(event.call_id)
        if known is None:
            self.assignments[event.call_id] = AssignmentState(
                event.call_id, agent, prompt, event.step, began=when
            )

    def _ended(self, event: AssignmentFinished, when: float) -> None:
        known = self.assignments.get(event.call_id)
        if known is None:
            known = AssignmentState(event.call_id, event.sub_agent, "", 0, self.began)
            self.assignments[event.call_id] = known
        known.status, known.steps, known.tool_calls = event.status, event.steps, event.tool_calls
        known.usage = event.usage
        known.began, known.ended = _placed(event, known.began, when)
        known.finished = event
        if event.waiting:
            self.waiting.append(event.call_id)


def _placed(event: AssignmentFinished, given: float, when: float) -> tuple[float, float]:
    """When a sub-agent worked, on the orchestrator's clock: between being given and `when`.

    The sub-agent's machine may have another clock. Its own times count where they fit; else only
    how long it worked does, up to the moment when its end was heard of. One that never worked has
    no times: it ended when it was given up.
    """
    if event.ended <= 0 or event.began <= 0:
        return when, when
    if given <= event.began <= event.ended <= when:
        return event.began, event.ended
    lasted = min(max(0.0, event.ended - event.began), max(0.0, when - given))
    return when - lasted, when


def fold_swarm(records: Iterable[Record]) -> SwarmState:
    """The state of a swarm after these records of its orchestrator."""
    state = SwarmState()
    for record in records:
        state.apply(record)
    return state
