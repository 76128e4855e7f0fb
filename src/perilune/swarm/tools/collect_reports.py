"""`collect_reports`: reports that had to wait because the window had no room for them."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool
from perilune.swarm.team import Team


class CollectReports(DescribedTool):
    name = "collect_reports"
    side_effects = False  # what it shows is kept in files, and can be shown again

    def __init__(self, team: Team) -> None:
        self._team = team

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return self._team.collect(context)
