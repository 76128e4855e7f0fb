"""`view_image`: an image file of the workspace, as a part that a model with vision can see."""

from __future__ import annotations

from typing import Any

from perilune.agent.pictures.store import data_part, open_picture
from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.chat.media import MediaLimits
from perilune.errors import MediaError, ToolError


class ViewImage(ReadingTool):
    name = "view_image"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        path = str(arguments["path"])
        most = MediaLimits().image_bytes
        data = await in_thread(workspace_of(context).read_bytes, path, most=most)
        return ToolResult(await in_thread(shown_picture, data, path))


def shown_picture(data: bytes, name: str) -> list[dict[str, Any]]:
    """A picture for the model, with words on it. Raises `ToolError` for what is none."""
    try:
        about = open_picture(data, name).about
        return [{"type": "text", "text": about}, data_part(data, name)]
    except MediaError as error:
        raise ToolError(f"{name} cannot be shown: {error.message}", remedy=error.remedy) from None
