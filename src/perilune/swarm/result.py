"""How a swarm's task ended, with its counts beside those of serial work."""

from __future__ import annotations

from dataclasses import dataclass, field

from perilune.agent.endings import DONE
from perilune.events import Usage
from perilune.swarm.state import AssignmentState, SwarmState


@dataclass(frozen=True, slots=True)
class SwarmResult:
    """`reason` is "done", or names what ended the orchestrator (see `agent/endings.py`).

    `missing` names each assignment whose work is not in, and why: the answer was made without it.
    `steps` are the orchestrator's own; `usage` is that of all agents, `seconds` the wall time.
    """

    run: str
    answer: str
    reason: str
    detail: str = ""
    steps: int = 0
    critical_steps: int = 0
    serial_steps: int = 0
    sub_agents: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    serial_seconds: float = 0.0
    missing: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.reason == DONE

    def __str__(self) -> str:
        return self.answer


def result_of(
    state: SwarmState, *, answer: str, reason: str, detail: str, seconds: float
) -> SwarmResult:
    return SwarmResult(
        run=state.run,
        answer=answer,
        reason=reason,
        detail=detail,
        steps=state.main_steps,
        critical_steps=state.critical_steps,
        serial_steps=state.serial_steps,
        sub_agents=len(state.assignments),
        tool_calls=state.tool_calls,
        usage=state.usage,
        seconds=round(seconds, 3),
        serial_seconds=round(state.serial_seconds(), 3),
        missing=[named(each) for each in state.missing()],
    )


def named(each: AssignmentState) -> str:
    """`poems-3 (hung: no sign of life for 900 s): Read the poems of ...`."""
    why = each.finished.detail if each.finished and each.finished.detail else ""
    prompt = " ".join(each.prompt.split())
    return f"{each.name} ({each.status}{f': {why}' if why else ''}): {prompt[:100]}"
