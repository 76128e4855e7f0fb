"""`merge_tables`: the tables of all reports as one, with their contradictions."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread
from perilune.errors import ToolError
from perilune.swarm.merge import merge
from perilune.swarm.team import Team


class MergeTables(ReadingTool):
    name = "merge_tables"

    def __init__(self, team: Team) -> None:
        self._team = team

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        reports = self._team.reports(arguments.get("agents"))
        if not reports:
            raise ToolError("no sub-agent has delivered a report yet")
        merged = await in_thread(merge, reports)
        if not merged.rows:
            raise ToolError("none of the reports holds a table whose first column names the row")
        return ToolResult(merged.text())
