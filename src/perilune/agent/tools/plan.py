"""`plan`: the living to-do list of a run."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool
from perilune.errors import ToolError
from perilune.events import PlanItem, PlanUpdated

_MARKS = {"open": "[ ]", "active": "[>]", "done": "[x]", "dropped": "[-]"}


class Plan(DescribedTool):
    name = "plan"
    side_effects = False  # the list is said whole, so saying it again changes nothing

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        items = [PlanItem(**item) for item in arguments["items"]]
        if sum(item.status == "active" for item in items) > 1:
            raise ToolError("only one item can be active; the plan was not changed")
        for item in items:
            if item.status == "dropped" and not item.note.strip():
                raise ToolError(f"say in note why {item.text!r} is dropped; nothing was changed")
        context.emit(PlanUpdated(items=items))
        lines = [
            f"{_MARKS[item.status]} {item.text}" + (f" ({item.note})" if item.note else "")
            for item in items
        ]
        return ToolResult("\n".join(lines))
