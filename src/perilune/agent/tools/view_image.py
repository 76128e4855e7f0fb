"""`view_image`: an image file of the workspace, as a part that a model with vision can see."""

from __future__ import annotations

import base64
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.errors import ToolError

LARGEST = 8 << 20

# First bytes -> media type; what the file is called does not matter.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class ViewImage(ReadingTool):
    name = "view_image"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        path = str(arguments["path"])
        data = await in_thread(workspace_of(context).read_bytes, path, most=LARGEST)
        kind = image_type(data)
        if kind is None:
            raise ToolError(f"{path} is not a PNG, JPEG, GIF or WebP image")
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return ToolResult(
            [
                {"type": "text", "text": f"{path} ({kind}, {len(data)} bytes)"},
                {"type": "image_url", "image_url": {"url": url}},
            ]
        )


def image_type(data: bytes) -> str | None:
    """The media type of an image by its first bytes, None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _SIGNATURES if data.startswith(start)), None)
