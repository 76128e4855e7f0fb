"""`edit_file`: one exact replacement, refused when it is ambiguous or breaks the file's syntax."""

from __future__ import annotations

import difflib
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, workspace_of
from perilune.agent.tools.syntax import syntax_problem
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.text_file import (
    line_of,
    lines_of,
    places_of,
    replaced,
    without_surrogates,
)

_MOST_COMPARED = 2000  # lines, for the nearest place


class EditFile(DescribedTool):
    name = "edit_file"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return await in_thread(
            _edit,
            workspace_of(context),
            str(arguments["path"]),
            str(arguments["old"]),
            str(arguments["new"]),
            bool(arguments.get("all", False)),
        )


def _edit(workspace: Workspace, path: str, old: str, new: str, everywhere: bool) -> ToolResult:
    if old == new:
        raise ToolError("old and new are the same; nothing was changed")
    old, new = without_surrogates(old), without_surrogates(new)
    file = workspace.read_text_file(path)
    text = file.text
    # A model writes plain line ends; the file keeps its own, place by place.
    found = places_of(text, old)
    places = [line_of(text, start) for start, _ in found]
    if not places:
        raise ToolError(f"old is not in {path}; nothing was changed{_nearest(text, old)}")
    if len(places) > 1 and not everywhere:
        lines = ", ".join(str(line) for line in places[:10])
        raise ToolError(
            f"old is in {path} {len(places)} times (lines {lines}); nothing was changed",
            remedy="Give more of the lines around it, or set all.",
        )
    changed = replaced(text, found, new)
    problem = syntax_problem(path, changed)
    if problem and not syntax_problem(path, text):
        raise ToolError(f"the edit would break {path} ({problem}); nothing was changed")
    data = file.with_text(changed, path).encode()
    relative = workspace.write_bytes(path, data)
    lines = "line" if len(places) == 1 else "lines"
    report = f"changed {relative} at {lines} {', '.join(map(str, places[:20]))}"
    if problem:
        report += f"\nIt still does not parse: {problem}"
    if file.described:
        report += f"\nKept as it was: {file.described}"
    return ToolResult(report, files=[relative])


def _nearest(text: str, old: str) -> str:
    """Where a text comes nearest to what was looked for: mostly it is a matter of spaces."""
    lines = lines_of(text)
    first = next((line for line in lines_of(old) if line.strip()), "").strip()
    if not first or len(lines) > _MOST_COMPARED:
        return ""
    near = difflib.get_close_matches(first, [line.strip() for line in lines], n=1, cutoff=0.7)
    if not near:
        return ""
    number = next(n for n, line in enumerate(lines, 1) if line.strip() == near[0])
    return f". The nearest is line {number}: {lines[number - 1][:300]!r}"
