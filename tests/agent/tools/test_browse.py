"""The browser behind the guard. Needs playwright and an installed Chromium; skips without."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from perilune.agent.tool import ToolContext
from perilune.agent.tools.browse.browser import EXECUTABLE, find_chromium
from perilune.agent.tools.browse.tool import Browse
from perilune.errors import ToolError
from perilune.search.web.http import GuardedClient
from perilune.search.web.net_guard import NetGuard
from tests.agent.tools.conftest import Call, serving

needs_chromium = pytest.mark.skipif(
    # In CI the tests run, and fail, without it: `make test` installs it there.
    shutil.which("chromium") is None and os.environ.get("CI") != "true",
    reason="run: scripts/setup_system.sh --with chromium",
)


def browse() -> Browse:
    """A browser for which `*.test` is the test server and 127.0.0.1 alone is allowed."""

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host.endswith(".test") else ["10.0.0.1"]

    return Browse(GuardedClient(NetGuard.allowing(["127.0.0.1/32"], resolver=resolve)))


@needs_chromium
async def test_a_page_is_drawn_used_and_left(
    call: Call, workspace: Path, context: ToolContext
) -> None:
    pytest.importorskip("playwright")
    seen: list[str] = []

    def form(request: object) -> tuple[int, dict[str, str], bytes]:
        seen.append(request.path)  # type: ignore[attr-defined]
        return 200, {"Content-Type": "text/html"}, b"<title>Found</title><p>It was found.</p>"

    page = b"""<title>Start</title><body><h1>Hello</h1><p id=p>not drawn</p>
    <a href=/second>Second page</a><a href=/moved>Moved</a>
    <form action=/find><input name=q placeholder=Words><button>Go</button></form>
    <script>document.getElementById('p').textContent = 'drawn by ' + 'a script'</script>"""
    html = {"Content-Type": "text/html"}
    site = {
        "/": (200, html, page),
        "/second": (200, html, b"<title>Second</title><p>The second page.</p>"),
        "/moved": (302, {"Location": "/second"}, b""),
        "/find": form,
    }
    with serving(site) as port:
        tool = browse()
        first = await call(tool, action="open", url=f"http://site.test:{port}/")
        text = str(first.content)
        assert "drawn by a script" in text
        assert "[1] link Second page" in text
        assert first.evidence
        assert "The second page." in str((await call(tool, action="click", target="1")).content)
        assert "Hello" in str((await call(tool, action="back")).content)
        moved = str((await call(tool, action="click", target="Moved")).content)
        assert f"http://site.test:{port}/second" in moved
        await call(tool, action="back")
        await call(tool, action="open", url=f"http://site.test:{port}/")
        found = await call(tool, action="type", target="3", text="moon", submit=True)
        assert "It was found." in str(found.content)
        assert seen == ["/find?q=moon"]
        shot = await call(tool, action="screenshot", path="shot.png")
        assert shot.files == ["shot.png"]
        assert [part["type"] for part in shot.content] == ["text", "text", "image_url"]
        assert (workspace / "shot.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(ToolError, match="no element"):
            await call(tool, action="click", target="99")


@needs_chromium
async def test_a_page_reaches_nothing_inside(call: Call) -> None:
    """A hostile page tries the ways that a browser has; a server inside sees none of them."""
    pytest.importorskip("playwright")
    touched: list[str] = []

    def inside(request: object) -> tuple[int, dict[str, str], bytes]:
        touched.append(request.path)  # type: ignore[attr-defined]
        return 200, {"Access-Control-Allow-Origin": "*"}, b"secret"

    sockets: list[str] = []

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sockets.append("connected")
        writer.close()

    listener = await asyncio.start_server(raw, "127.0.0.1", 0)
    raw_port = listener.sockets[0].getsockname()[1]
    names = "inside.example", "127.0.0.2", "localhost", "[::1]"
    with serving(dict.fromkeys(("/img", "/frame", "/fetch", "/css"), inside)) as hidden:
        targets = [f"http://{name}:{hidden}" for name in names]
        tries = "".join(
            f"<img src='{target}/img'><iframe src='{target}/frame'></iframe>"
            f"<link rel=stylesheet href='{target}/css'><link rel=preconnect href='{target}'>"
            f"<script>fetch('{target}/fetch', {{mode: 'no-cors'}}).catch(e => 0)</script>"
            for target in targets
        )
        tries += f"<script>new WebSocket('ws://127.0.0.2:{raw_port}/');"
        tries += f"new WebSocket('ws://127.0.0.1:{raw_port}/');</script>"
        page = f"<title>Bad</title><p>Hostile words.</p>{tries}".encode()
        with serving({"/": (200, {"Content-Type": "text/html"}, page)}) as port:
            result = await call(browse(), action="open", url=f"http://site.test:{port}/")
            assert "Hostile words." in str(result.content)
            await asyncio.sleep(0.5)
    listener.close()
    await listener.wait_closed()
    assert touched == []
    assert sockets == []


async def test_bad_input(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ({}, {"action": "fly"}, {"action": "open"}, {"action": "click"}):
        with pytest.raises(ToolError):
            await call(Browse(), **arguments)
    for url in ("http://127.0.0.1/", "file:///etc/passwd", "chrome://settings", "http://[::1]/"):
        with pytest.raises(ToolError):
            await call(Browse(), action="open", url=url)
    monkeypatch.setenv(EXECUTABLE, "/no/such/chromium")
    with pytest.raises(ToolError, match="/no/such/chromium"):
        find_chromium()
