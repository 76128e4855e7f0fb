"""`argue`: the argument behind an answer, as nodes that speak for and against each other."""

from __future__ import annotations

from typing import Any

import msgspec

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool
from perilune.errors import ToolError
from perilune.events import ArgumentNode, ArgumentUpdated


class Argue(DescribedTool):
    name = "argue"
    side_effects = False  # nodes are replaced by id, so saying them again changes nothing

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        nodes = [msgspec.convert(each, ArgumentNode) for each in arguments["nodes"]]
        for node in nodes:
            if node.id in (*node.supports, *node.against):
                raise ToolError(f"{node.id!r} speaks for or against itself; nothing was changed")
            if node.kind == "check" and node.state == "holds" and not node.result:
                raise ToolError(f"copy what check {node.id!r} printed into its result")
        context.emit(ArgumentUpdated(nodes=nodes))
        lines = [f"{node.kind} {node.id} ({node.state})" for node in nodes]
        return ToolResult(f"kept: {', '.join(lines)}")
