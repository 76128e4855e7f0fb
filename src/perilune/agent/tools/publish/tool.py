"""`publish`: a Markdown report as one self-contained HTML file."""

from __future__ import annotations

from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, workspace_of
from perilune.agent.tools.publish.html import MOST_PICTURES, Page, SourceLine
from perilune.errors import ToolError


class Publish(DescribedTool):
    name = "publish"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        workspace = workspace_of(context)
        source, path = str(arguments["source"]), str(arguments["path"])

        def about(evidence_id: str) -> SourceLine:
            store = context.evidence
            if store is None or evidence_id not in store:
                raise ToolError(
                    f"[{evidence_id}] is not a source that this run has read; nothing was written"
                )
            known = store.describe(evidence_id)
            return SourceLine(known.title, known.source)

        def make() -> tuple[str, int, Page]:
            page = Page(lambda name: workspace.read_bytes(name, most=MOST_PICTURES), about)
            data = page.html(workspace.read_text(source)).encode("utf-8", "replace")
            return workspace.write_bytes(path, data), len(data), page

        written, size, page = await in_thread(make)
        said = f"published {written} ({size} bytes, {len(page.numbers)} sources)"
        return ToolResult(said, files=[written])
