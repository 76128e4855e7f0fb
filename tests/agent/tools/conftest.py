"""A workspace, a context and a way to call a tool as the loop does: arguments checked first."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from perilune.agent.tool import Evidence, Tool, ToolContext, ToolResult
from perilune.agent.tool_registry import ToolRegistry
from perilune.errors import SandboxError
from perilune.events import Event
from perilune.sandbox import Limits, Sandbox, open_sandbox
from perilune.sandbox.limits import MIB
from tests.sandbox.conftest import open_folder

Call = Callable[..., Awaitable[ToolResult]]


class MemoryEvidence:
    """Keeps sources in memory."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.kept: dict[str, Evidence] = {}

    def keep(self, source: str, text: str, *, title: str = "", digits: int = 8) -> Evidence:
        digest = hashlib.sha256(f"{source}\n{text}".encode()).hexdigest()
        self.texts[f"ev:{digest[:digits]}"] = text
        kept = Evidence(f"ev:{digest[:digits]}", source, title, digest)
        self.kept[kept.id] = kept
        return kept

    def text(self, evidence_id: str) -> str:
        return self.texts[evidence_id]

    def describe(self, evidence_id: str) -> Evidence:
        return self.kept[evidence_id]

    def __contains__(self, evidence_id: object) -> bool:
        return evidence_id in self.texts


@pytest.fixture
def workspace() -> Iterator[Path]:
    with open_folder() as outside:
        folder = outside / "workspace"
        folder.mkdir()
        yield folder


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def context(workspace: Path, events: list[Event]) -> Any:
    closers: list[Callable[[], Awaitable[None]]] = []
    outputs = workspace.parent / "outputs"
    outputs.mkdir()
    yield ToolContext(
        workspace=workspace,
        outputs=outputs,
        evidence=MemoryEvidence(),
        emit=events.append,
        on_run_end=closers.append,
    )
    for close in reversed(closers):
        await close()


@pytest.fixture
def call(context: ToolContext) -> Call:
    """Call a tool with arguments that go through its schema, as JSON."""

    async def run(tool: Tool, **arguments: Any) -> ToolResult:
        registry = ToolRegistry([tool])
        checked = registry.parse_arguments(tool.name, json.dumps(arguments))
        return await tool.run(checked, context)

    return run


@pytest.fixture(scope="session")
def opened_sandbox() -> Sandbox:
    limits = Limits(wall_seconds=30, memory=768 * MIB, data=768 * MIB)
    try:
        return open_sandbox(limits=limits)
    except SandboxError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the sandbox must work in CI: {error}")
        pytest.skip(str(error))


@pytest.fixture
def sandboxed(context: ToolContext, opened_sandbox: Sandbox) -> ToolContext:
    """The context, with a sandbox."""
    context.sandbox = opened_sandbox
    return context


Answer = tuple[int, dict[str, str], bytes]
Site = dict[str, Answer | Callable[[BaseHTTPRequestHandler], Answer]]


class QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that break off, as they do in these tests."""

    def handle_error(self, *args: object) -> None:
        pass


@contextmanager
def serving(site: Site, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A web server on 127.0.0.1 that answers by path; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = site.get(self.path.partition("?")[0], (404, {}, b"nothing here"))
            status, headers, body = found(self) if callable(found) else found
            with suppress(OSError):  # the client may have gone away
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
