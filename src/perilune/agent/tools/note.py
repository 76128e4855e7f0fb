"""`note`: something to remember, kept verbatim."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool
from perilune.errors import ToolError
from perilune.events import NoteTaken


class Note(DescribedTool):
    name = "note"
    side_effects = False  # it is written down with the call's result, or not at all

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        text = str(arguments["text"]).strip()
        if not text:
            raise ToolError("the note is empty")
        context.emit(NoteTaken(text=text))
        return ToolResult("noted")
