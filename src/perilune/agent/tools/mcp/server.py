"""One MCP server: how it is reached, and the connection, held by a task of its own.

The official client must be entered and left by the same task, and a tool may be called from any
event loop, so all connections live on one background loop and calls are handed over to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from perilune.errors import ToolError, UsageError
from perilune.processes import command_environment

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as RemoteTool

T = TypeVar("T")

_STDERR_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server started as a `command` (stdio), or reached at a `url` (streamable HTTP).

    A command gets PATH, HOME and the like and `environment`, not our secrets. It is not sandboxed:
    it is a program that the person chose to run.
    """

    name: str
    command: Sequence[str] = ()
    url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise UsageError(f"MCP server {self.name}: give a command or a url, and not both")


class BackgroundLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="perilune-mcp", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it here, blocking."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and await it here; cancelling it cancels it there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


class Connection:
    """The connection to one server. All methods run on the background loop."""

    def __init__(self, server: McpServer, *, connect_seconds: float = 20.0) -> None:
        self.server = server
        self._seconds = connect_seconds
        self._client: Client | None = None
        self._holder: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._errors: TextIO | None = None
        self._last_words = ""

    async def connect(self) -> None:
        """Raises `ToolError` with the server's own last words when it cannot be reached."""
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._holder = asyncio.create_task(self._hold(ready))
        try:
            self._client = await asyncio.wait_for(ready, self._seconds)
        except TimeoutError:
            await self.close()
            raise self._gone("it did not answer in time") from None
        except Exception as error:
            await self.close()
            raise self._gone(_reason(error)) from None

    async def list_tools(self) -> list[RemoteTool]:
        """All tools that the server offers now."""
        client = await self._connected()
        tools: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(100):
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return tools

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool; a server that died is started again at the next call, not at this one.

        Raises `ToolError`: whether a call that was cut off took effect is unknown.
        """
        from mcp import MCPError

        client = await self._connected()
        try:
            return await client.call_tool(tool, arguments)
        except MCPError as error:
            if await self._alive():
                raise ToolError(f"MCP server {self.server.name}: {_reason(error)}") from None
            why = _reason(error)
        except Exception as error:
            why = _reason(error)
        await self.close()
        raise self._gone(f"{why}. The call may have taken effect")

    async def close(self) -> None:
        self._client = None
        holder, self._holder = self._holder, None
        if holder is not None:
            self._leave.set()
            _, late = await asyncio.wait({holder}, timeout=5)
            for task in late:
                task.cancel()

    async def _connected(self) -> Client:
        if self._client is None or self._holder is None or self._holder.done():
            await self.connect()
        assert self._client is not None
        return self._client

    async def _alive(self) -> bool:
        """Whether the server still answers; asked after an error that may mean either."""
        if self._client is None:
            return False
        try:
            await asyncio.wait_for(self._client.list_tools(), 5)
        except Exception:
            return False
        return True

    async def _hold(self, ready: asyncio.Future[Client]) -> None:
        """Enter the client, wait, leave it: in one task."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client_of(stack))
                ready.set_result(client)
                await self._leave.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            if self._errors is not None:
                self._errors.seek(0)
                self._last_words = self._errors.read()[-_STDERR_SHOWN:].strip()
                self._errors.close()
                self._errors = None

    async def _client_of(self, stack: contextlib.AsyncExitStack) -> Client:
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import get_default_environment, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self.server.command:
            program, *arguments = self.server.command
            self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            parameters = StdioServerParameters(
                command=program,
                args=arguments,
                env={
                    **command_environment(self.server.command, get_default_environment()),
                    **self.server.environment,
                },
            )
            return Client(stdio_client(parameters, errlog=self._errors))
        if self.server.headers:
            import httpx2

            http = httpx2.AsyncClient(headers=dict(self.server.headers), timeout=60)
            await stack.enter_async_context(http)
            return Client(streamable_http_client(self.server.url, http_client=http))
        return Client(self.server.url)

    def _gone(self, why: str) -> ToolError:
        text = f"MCP server {self.server.name} is not there: {why}"
        said = self._last_words
        return ToolError(f"{text}. It said: {said}" if said else text)


def _reason(error: BaseException) -> str:
    """An error in one line; groups of errors by their first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
