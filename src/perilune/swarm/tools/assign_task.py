"""`assign_task`: a prompt for a sub-agent, K2.5's second orchestration tool."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool
from perilune.swarm.team import Team


class AssignTask(ReadingTool):
    """After a crash it is called again, and goes on with the sub-agent's own journal."""

    name = "assign_task"
    timeout = None
    durable_intent = True

    def __init__(self, team: Team) -> None:
        self._team = team

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return await self._team.assign(str(arguments["agent"]), str(arguments["prompt"]), context)
