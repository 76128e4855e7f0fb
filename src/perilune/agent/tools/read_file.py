"""`read_file`: a text file of the workspace, or the whole of an output that was shortened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.agent.workspace.workspace import FolderError, Workspace
from perilune.errors import ToolError
from perilune.text_file import lines_of

LONGEST_LINE = 2000
MOST_CHARACTERS = 15_000


class ReadFile(ReadingTool):
    name = "read_file"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        path = str(arguments["path"])
        start, lines = int(arguments.get("start", 1)), int(arguments.get("lines", 400))
        return ToolResult(await in_thread(_read, _place(path, context), start, lines))


def _place(path: str, context: ToolContext) -> tuple[Workspace, str]:
    """The folder that a path is confined to: the workspace, or the run's kept outputs."""
    if context.outputs is not None and Path(path).is_absolute():
        outputs = Workspace(context.outputs)
        for root in (context.outputs, outputs.root):
            if Path(path).is_relative_to(root):
                return outputs, str(Path(path).relative_to(root))
    return workspace_of(context), path


def _read(place: tuple[Workspace, str], start: int, count: int) -> str:
    workspace, path = place
    try:
        file = workspace.read_text_file(path)
    except FolderError:
        names = workspace.listing(path)
        return "\n".join(names[:1000]) or "(the folder is empty)"
    lines = lines_of(file.text)
    if not lines:
        return f"(the file is empty){f' [{file.described}]' if file.mark else ''}"
    if start > len(lines):
        raise ToolError(f"{path} has {len(lines)} lines; there is no line {start}")
    width = len(str(min(len(lines), start + count - 1)))
    shown: list[str] = []
    size = 0
    for number, line in enumerate(lines[start - 1 : start - 1 + count], start):
        if len(line) > LONGEST_LINE:
            line = f"{line[:LONGEST_LINE]}[... {len(line) - LONGEST_LINE} more characters]"
        shown.append(f"{number:>{width}}  {line}")
        size += len(shown[-1]) + 1
        if size > MOST_CHARACTERS:
            break
    last = start + len(shown) - 1
    if start > 1 or last < len(lines):
        shown.append(f"[lines {start} to {last} of {len(lines)}]")
    if file.described:
        shown.append(f"[{file.described}]")
    return "\n".join(shown)
