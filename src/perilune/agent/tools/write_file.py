"""`write_file`: a whole file of the workspace, in one atomic step."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, workspace_of
from perilune.agent.tools.syntax import syntax_problem
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.text_file import (
    DECLARED_HEAD,
    EncodingLostError,
    TextFile,
    declared_encoding,
    lines_of,
    replaced,
    without_surrogates,
)


class WriteFile(DescribedTool):
    name = "write_file"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        path, content = str(arguments["path"]), str(arguments["content"])
        content = without_surrogates(content)
        workspace = workspace_of(context)
        existed = workspace.exists(path)
        data, kept = await in_thread(_stored, workspace, path, content, existed)
        relative = await in_thread(workspace.write_bytes, path, data)
        did = "replaced" if existed else "made"
        text = f"{did} {relative}: {len(lines_of(content))} lines, {len(data)} bytes"
        if kept:
            text += f"\n{kept}"
        problem = syntax_problem(relative, content)
        if problem:
            text += f"\nBut it does not parse: {problem}"
        return ToolResult(text, files=[relative])


def _stored(workspace: Workspace, path: str, content: str, existed: bool) -> tuple[bytes, str]:
    """The bytes of a new content, as the file was stored before, and what is to be said of it."""
    said = declared_encoding(content[:DECLARED_HEAD].encode("utf-8", "replace"), path)
    before, why = TextFile(""), ""
    if existed:
        try:
            before = workspace.read_text_file(path)
        except ToolError as error:
            why = f"What was there could not be kept to ({error.message}); this is UTF-8"
    if said is not None and not before.mark:  # what the new text says of itself goes first
        before = TextFile(before.text, said)
    text = content
    if before.mark:
        text = text.removeprefix("\ufeff")
    if before.text and text:
        text = replaced(before.text, [(0, len(before.text))], text)
    try:
        file = before.with_text(text, path)
    except EncodingLostError as error:
        return text.encode("utf-8"), f"The encoding was not kept: {error.cause}; this is UTF-8 now"
    kept = file.described if existed or said else ""
    return file.encode(), why or (f"Kept as it was: {kept}" if kept else "")
