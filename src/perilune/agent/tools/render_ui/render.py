"""A page of the workspace as Chromium draws it, at a given size; nothing else is reached.

It is the browser of `browse`, with the workspace in place of the web: a request for a file of the
workspace is answered from it, every other one is refused.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlsplit

from perilune.agent.tools.base import in_thread
from perilune.agent.tools.browse.browser import BrowserSession
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.search.web.http import Page

if TYPE_CHECKING:
    from perilune.search.web.http import GuardedClient

HOST = "page.invalid"
MOST_BYTES = 8 << 20
MOST_PICTURE = 0.5
"""Share of the page that one picture may cover: more would be the mock-up itself, pasted."""

# How far the page reaches, and the largest share of the view that a picture covers.
_MEASURES = """() => {
  const view = innerWidth * innerHeight;
  let largest = 0;
  for (const e of document.querySelectorAll('*')) {
    const style = getComputedStyle(e);
    const drawn = /^(IMG|VIDEO|CANVAS|OBJECT|EMBED|IFRAME|IMAGE)$/i.test(e.tagName)
      || (style.backgroundImage + style.borderImageSource + style.maskImage + style.content
          + getComputedStyle(e, '::before').backgroundImage
          + getComputedStyle(e, '::after').backgroundImage
          + getComputedStyle(e, '::before').content
          + getComputedStyle(e, '::after').content).includes('url(');
    if (!drawn) continue;
    const box = e.getBoundingClientRect();
    const width = Math.min(box.right, innerWidth) - Math.max(box.left, 0);
    const height = Math.min(box.bottom, innerHeight) - Math.max(box.top, 0);
    if (width > 0 && height > 0) largest = Math.max(largest, width * height / view);
  }
  const all = document.documentElement;
  return [all.scrollWidth, all.scrollHeight, largest];
}"""


@dataclass(frozen=True, slots=True)
class Rendered:
    """`size` is how far the page reaches, `picture` the largest share that a picture covers,
    `refused` the requests that were not answered."""

    screenshot: bytes
    size: tuple[int, int]
    picture: float
    refused: list[str]


@dataclass(slots=True)
class WorkspaceClient:
    """Stands for the guarded client of a `BrowserSession`: files of the workspace, nothing else."""

    workspace: Workspace
    refused: list[str] = field(default_factory=list)

    @property
    def guard(self) -> WorkspaceClient:
        return self

    async def check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.netloc != HOST:
            raise ToolError(f"{url[:120]} is not in the workspace")

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Page:
        try:
            await self.check(url)
            path = unquote(urlsplit(url).path).lstrip("/")
            if path == "favicon.ico":
                return Page(url, 404, "text/plain", None, {}, b"")
            data = await in_thread(self.workspace.read_bytes, path, most=MOST_BYTES)
        except ToolError as error:
            self.refused.append(error.message)
            raise
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        return Page(url, 200, kind, None, {"content-type": kind}, data)


class Renderer:
    """A browser for pages of one workspace; `close` ends it."""

    def __init__(self, workspace: Workspace) -> None:
        self._client = WorkspaceClient(workspace)
        self._session = BrowserSession(cast("GuardedClient", self._client))
        self._lock = asyncio.Lock()

    async def render(self, path: str, size: tuple[int, int]) -> Rendered:
        """Draw an HTML file of the workspace at `size` (width, height).

        Raises `ToolError`: no such file, no browser, a page that does not come to rest.
        """
        if PurePosixPath(path).suffix.lower() not in (".html", ".htm"):
            raise ToolError(f"{path} is no HTML file")
        workspace = self._client.workspace
        await in_thread(workspace.read_bytes, path, most=MOST_BYTES)
        async with self._lock:
            self._client.refused.clear()
            return await self._draw(workspace.relative(path), size)

    async def close(self) -> None:
        await self._session.close()

    async def _draw(self, name: str, size: tuple[int, int]) -> Rendered:
        page = await self._session.page()
        try:
            await page.set_viewport_size({"width": size[0], "height": size[1]})
            await self._session.open(f"http://{HOST}/{quote(name)}")
            shot = await page.screenshot(animations="disabled", caret="hide")
            measures: list[Any] = await page.evaluate(_MEASURES)
        except ToolError:
            raise
        except Exception as error:  # the browser's own
            words = str(error).partition("\n")[0]
            raise ToolError(f"the page could not be drawn: {words}") from None
        reach = (int(measures[0]), int(measures[1]))
        refused = list(dict.fromkeys(self._client.refused))
        return Rendered(shot, reach, float(measures[2]), refused)
