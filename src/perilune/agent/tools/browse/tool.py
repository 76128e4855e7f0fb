"""`browse`: a page in a real browser, step by step; needs the extra `browser` and Chromium."""

from __future__ import annotations

import asyncio
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, workspace_of
from perilune.agent.tools.browse.browser import BrowserSession
from perilune.agent.tools.view_image import shown_picture
from perilune.errors import ToolError
from perilune.search.web.http import GuardedClient
from perilune.search.web.pages import html_text

SHOWN = 10_000
_STATE = "browse"
_NEEDS = {
    "open": ("url",),
    "click": ("target",),
    "type": ("target", "text"),
    "screenshot": ("path",),
}


class Browse(DescribedTool):
    name = "browse"
    timeout = 120.0

    def __init__(self, client: GuardedClient | None = None) -> None:
        self._client = client or GuardedClient()

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        action = str(arguments["action"])
        for needed in _NEEDS.get(action, ()):
            if needed not in arguments:
                raise ToolError(f"{action} needs {needed}; nothing was done")
        if _STATE not in context.state:
            session = BrowserSession(self._client)
            context.state[_STATE] = (session, asyncio.Lock())
            context.on_run_end(session.close)
        session, lock = context.state[_STATE]
        async with lock:
            return await self._do(session, action, arguments, context)

    async def _do(
        self, session: BrowserSession, action: str, arguments: dict[str, Any], context: ToolContext
    ) -> ToolResult:
        if action == "open":
            await session.open(str(arguments["url"]))
        elif action == "click":
            await session.click(str(arguments["target"]))
        elif action == "type":
            submit = bool(arguments.get("submit", False))
            await session.type(str(arguments["target"]), str(arguments["text"]), submit=submit)
        elif action == "back":
            await session.back()
        page = await session.page()
        if page.url == "about:blank":
            raise ToolError("no page is open; open one first")
        if action == "screenshot":
            png = await page.screenshot()
            path = await in_thread(workspace_of(context).write_bytes, str(arguments["path"]), png)
            seen = await in_thread(shown_picture, png, path)
            return ToolResult([{"type": "text", "text": f"wrote {path}"}, *seen], files=[path])
        url, title = page.url, await page.title()
        elements = await session.elements()
        content = await page.content()
        text = (await in_thread(html_text, content.encode(), url)).text
        head = [f"# {title}" if title else "", url]
        evidence = []
        if context.evidence is not None and text.strip():
            kept = context.evidence.keep(url, text, title=title)
            evidence.append(kept.id)
            head.append(f"Cite as [{kept.id}]")
        shown = text[:SHOWN]
        if len(text) > SHOWN:
            shown += f"\n[{len(text) - SHOWN} more characters; `fetch` can show them in parts]"
        parts = ["\n".join(filter(None, head)), shown or "(no text)"]
        if elements:
            parts.append("Elements:\n" + "\n".join(elements))
        return ToolResult("\n\n".join(parts), evidence=evidence)
