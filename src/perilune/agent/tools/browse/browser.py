"""A Chromium whose every request is made by us, behind the SSRF guard.

Each request of a page is intercepted and answered through the guarded client, so what is judged is
also what is connected to. What cannot be intercepted has nowhere to go: the browser's only way out
is a proxy that does not exist. Service workers, web sockets, downloads and WebRTC are shut.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perilune.errors import ToolError
from perilune.processes import SYSTEM_PATH, find_program
from perilune.search.web.http import GuardedClient

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Playwright, Request, Route

EXECUTABLE = "PERILUNE_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NOWHERE = "http://127.0.0.1:9"  # the discard port
_SECONDS = 30_000
_SETTLE = 3_000  # milliseconds for scripts to draw
_FLAGS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Of the connection between us and the server, not of the page.
_HOP_HEADERS = frozenset(
    {"content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive"}
)
_SENT_HEADERS = frozenset({"accept", "accept-language", "content-type", "cookie", "origin"})

# Numbers what can be used, and describes it.
_ELEMENTS = """() => {
  const found = [];
  const query = 'a[href], button, input, select, textarea, [role=button], [role=link]';
  document.querySelectorAll('[data-agent]').forEach(e => e.removeAttribute('data-agent'));
  for (const e of document.querySelectorAll(query)) {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || e.type === 'hidden' || found.length >= 60) continue;
    const number = found.length + 1;
    e.setAttribute('data-agent', number);
    const label = (e.innerText || e.value || e.placeholder || e.ariaLabel || e.name || '');
    const tag = e.tagName.toLowerCase();
    const kind = tag === 'a' ? 'link' : tag === 'input' ? e.type : tag;
    found.push(`[${number}] ${kind} ${label.replace(/\\s+/g, ' ').trim().slice(0, 80)}`);
  }
  return found;
}"""


class BrowserSession:
    """One browser with one page, for the length of a run."""

    def __init__(self, client: GuardedClient) -> None:
        self._client = client
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._page: Page | None = None
        self.refusals: list[str] = []

    async def page(self) -> Page:
        """The page; the browser is started for the first one, and again when it crashed."""
        if self._page is not None and not self._page.is_closed():
            return self._page
        await self.close()
        try:
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise ToolError(
                "browsing needs playwright",
                remedy="The person can run: pip install 'perilune[browser]'. Use fetch instead.",
            ) from None
        executable = find_chromium()
        self._playwright = await async_playwright().start()
        try:
            self._browser = await self._playwright.chromium.launch(
                executable_path=executable,
                args=list(_FLAGS),
                # As root Chromium's own sandbox cannot be set up.
                chromium_sandbox=os.geteuid() != 0,
                proxy={"server": _NOWHERE, "bypass": "<-loopback>"},
                timeout=_SECONDS,
                env={"HOME": "/nonexistent", "PATH": SYSTEM_PATH, "LANG": "C.UTF-8"},
            )
            context = await self._browser.new_context(
                accept_downloads=False,
                service_workers="block",
                viewport={"width": 1280, "height": 900},
            )
        except Error as error:
            await self.close()
            raise ToolError(f"the browser does not start: {_first_line(error)}") from None
        await self._guard(context)
        self._page = await context.new_page()
        self._page.set_default_timeout(_SECONDS)
        return self._page

    async def open(self, url: str) -> None:
        """Go to a URL. Raises `ToolError` when the guard or the server refuses."""
        await self._client.guard.check(url)
        page = await self.page()
        await self._act(page.goto(url, wait_until="domcontentloaded"))
        await self._settle(page)

    async def click(self, target: str) -> None:
        page = await self.page()
        await self._act((await self._find(page, target)).click())
        await self._settle(page)

    async def type(self, target: str, text: str, *, submit: bool) -> None:
        page = await self.page()
        element = await self._find(page, target)
        await self._act(element.fill(text))
        if submit:
            await self._act(element.press("Enter"))
        await self._settle(page)

    async def back(self) -> None:
        page = await self.page()
        await self._act(page.go_back(wait_until="domcontentloaded"))
        await self._settle(page)

    async def elements(self) -> list[str]:
        """What can be clicked or typed into, numbered."""
        found: list[str] = await (await self.page()).evaluate(_ELEMENTS)
        return found

    async def close(self) -> None:
        """End the browser."""
        browser, playwright = self._browser, self._playwright
        self._browser = self._playwright = self._page = None
        if browser is not None:
            await browser.close()
        if playwright is not None:
            await playwright.stop()

    async def _find(self, page: Page, target: str) -> Any:
        if target.isdigit():
            await self.elements()
            found = page.locator(f"[data-agent='{target}']")
        else:
            found = page.get_by_text(target).or_(page.get_by_label(target)).first
        if await found.count() == 0:
            raise ToolError(f"the page has no element {target!r}; nothing was done")
        return found

    async def _act(self, action: Any) -> None:
        from playwright.async_api import Error

        self.refusals.clear()
        try:
            await action
        except Error as error:
            why = self.refusals[0] if self.refusals else _first_line(error)
            raise ToolError(f"the browser could not do it: {why}") from None

    async def _settle(self, page: Page) -> None:
        """Let scripts draw, within a bound."""
        from playwright.async_api import Error

        try:
            await page.wait_for_load_state("networkidle", timeout=_SETTLE)
        except Error:
            return

    async def _guard(self, context: BrowserContext) -> None:
        await context.route("**/*", self._answer)
        await context.route_web_socket("**/*", lambda socket: socket.close())

    async def _answer(self, route: Route, request: Request) -> None:
        """Make a page's request ourselves and hand it the answer."""
        from playwright.async_api import Error

        try:
            headers = {
                name: value
                for name, value in (await request.all_headers()).items()
                if name.lower() in _SENT_HEADERS
            }
            response = await self._client.request(
                request.method, request.url, headers=headers, body=request.post_data_buffer
            )
        except ToolError as error:
            self.refusals.append(error.message)
            await route.abort("blockedbyclient")
            return
        except Error:
            return  # the page went away meanwhile
        kept = {k: v for k, v in response.headers.items() if k.lower() not in _HOP_HEADERS}
        moved = response.url.split("#")[0] != request.url.split("#")[0]
        try:
            if moved and request.is_navigation_request():
                # So that the page knows its address; the new request comes here too.
                there = html.escape(response.url, quote=True)
                await route.fulfill(
                    status=200,
                    content_type="text/html",
                    body=f'<meta http-equiv="refresh" content="0;url={there}">',
                )
            else:
                await route.fulfill(status=response.status, headers=kept, body=response.body)
        except Error:
            return


def find_chromium() -> str | None:
    """An installed Chromium, or None for the one that Playwright may have brought itself."""
    named = os.environ.get(EXECUTABLE)
    if named:
        if not Path(named).exists():
            raise ToolError(f"{EXECUTABLE} names {named}, which does not exist")
        return named
    return next((path for name in _NAMES if (path := find_program(name))), None)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
