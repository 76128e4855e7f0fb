"""What all agents of a swarm have spent together, and the refusal to spend more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from perilune.agent.budgets import Budget
from perilune.agent.endings import BudgetExceeded
from perilune.agent.tool import Tool, ToolContext, ToolResult
from perilune.errors import ToolError
from perilune.events import AssistantMessage, Compacted, Record, Usage
from perilune.swarm.limits import SwarmLimits

SPENT = (
    "the swarm's budget of {limit} tool calls is spent; nothing was run. Answer now with what you "
    "have, and say what is missing."
)


class CallCounter(Protocol):
    """Grants tool calls, for one process or for many."""

    async def take_call(self) -> bool: ...


@dataclass(slots=True)
class Meter:
    """The counts of one process. `usage` is that of the orchestrator and all sub-agents."""

    limits: SwarmLimits
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)

    async def take_call(self) -> bool:
        """Count one tool call; False when none is left."""
        limit = self.limits.tool_calls
        if limit is not None and self.tool_calls >= limit:
            return False
        self.tool_calls += 1
        return True

    def observe(self, record: Record) -> None:
        """Count the tokens of a record of any agent."""
        if isinstance(record.event, AssistantMessage | Compacted):
            self.usage += record.event.usage

    def check(self, *, share: float = 1.0) -> None:
        """Raise `BudgetExceeded` when `share` of the swarm's tokens or cost is spent."""
        for which, spent, limit in (
            ("tokens", self.usage.total_tokens, self.limits.tokens),
            ("cost", self.usage.cost, self.limits.cost),
        ):
            if limit is not None and spent >= share * limit:
                raise BudgetExceeded(f"swarm {which}", round(spent, 3), share * limit)


@dataclass(frozen=True, slots=True)
class SharedBudget(Budget):
    """A budget of one agent that also asks the swarm's meter."""

    meter: Meter | None = None
    share: float = 1.0

    def check(self, *, steps: int, usage: Usage, seconds: float) -> None:
        # By name: `slots=True` makes the class anew, which breaks a bare `super()`.
        Budget.check(self, steps=steps, usage=usage, seconds=seconds)
        if self.meter is not None:
            self.meter.check(share=self.share)


def shared(budget: Budget, meter: Meter | None, *, share: float = 1.0, **changes: Any) -> Budget:
    """A budget with some limits changed, that also asks the swarm's meter."""
    changed = replace(budget, **changes)
    return SharedBudget(
        steps=changed.steps,
        tokens=changed.tokens,
        thinking_tokens=changed.thinking_tokens,
        seconds=changed.seconds,
        cost=changed.cost,
        meter=meter,
        share=share,
    )


class MeteredTool:
    """A tool whose calls count for the whole swarm; it changes nothing else of the tool."""

    def __init__(self, inner: Tool, counter: CallCounter, limit: int | None) -> None:
        self._inner, self._counter, self._limit = inner, counter, limit
        self.name, self.description = inner.name, inner.description
        self.parameters, self.timeout = inner.parameters, inner.timeout
        self.side_effects, self.parallel_safe = inner.side_effects, inner.parallel_safe
        self.deferred = getattr(inner, "deferred", False)
        self.durable_intent = getattr(inner, "durable_intent", False)

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        if not await self._counter.take_call():
            raise ToolError(SPENT.format(limit=self._limit))
        return await self._inner.run(arguments, context)
