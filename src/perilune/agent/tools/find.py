"""`find`: files of the workspace by glob."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.agent.tools.globs import glob_pattern
from perilune.agent.workspace.workspace import Found, Workspace

_ORDERS = {"newest": lambda f: -f.modified, "largest": lambda f: -f.size, "name": lambda f: 0}


class Find(ReadingTool):
    name = "find"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return ToolResult(
            await in_thread(
                _find,
                workspace_of(context),
                str(arguments.get("pattern", "*")),
                str(arguments.get("path", ".")),
                str(arguments.get("sort", "name")),
                int(arguments.get("limit", 200)),
            )
        )


def _find(workspace: Workspace, pattern: str, path: str, sort: str, limit: int) -> str:
    fits = glob_pattern(pattern)
    base = workspace.relative(path)
    skip = len(base) + 1 if base != "." else 0
    found: list[Found] = [
        file for file in workspace.files(path) if fits.fullmatch(file.path[skip:] or file.path)
    ]
    found.sort(key=_ORDERS[sort])
    lines = [f"{file.path}  ({file.size} bytes)" for file in found[:limit]]
    if len(found) > limit:
        lines.append(f"[{len(found) - limit} more; narrow the pattern]")
    return "\n".join(lines) or f"no file fits {pattern!r} in {path}"
