"""`create_subagent`: a name and a system prompt, K2.5's first orchestration tool."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool
from perilune.swarm.team import Team


class CreateSubagent(ReadingTool):
    """Making an agent again after a crash gives the same agent, so it has no side effects."""

    name = "create_subagent"

    def __init__(self, team: Team) -> None:
        self._team = team

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return self._team.create(str(arguments["name"]), str(arguments["system_prompt"]), context)
