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
_LONGEST_REASON = 1000
_TOOL_KEYS = ("name", "title", "description", "inputSchema", "annotations", "_meta")
MAX_TOOLS = 2_000  # of one server
MAX_PAGES = 200
LIST_SECONDS = 30.0


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
            raise UsageError(f"MCP server {self.name}: give either a command or a url")


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
        self.list_cut = ""
        self.rejected: dict[str, str] = {}
        self.schemas: dict[str, dict[str, Any]] = {}
        self._seconds = connect_seconds
        self._client: Client | None = None
        self._holder: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._unreadable = asyncio.Event()
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
        """All tools that the server offers now, at most `MAX_TOOLS`.

        `list_cut` then says why there are no more. Raises `ToolError` where it lists none.
        """
        client = await self._connected()
        tools: list[RemoteTool] = []
        self.list_cut = ""
        cursor: str | None = None
        asked: set[str | None] = set()
        try:
            async with asyncio.timeout(LIST_SECONDS):
                while cursor not in asked:
                    asked.add(cursor)
                    page = await client.list_tools(cursor=cursor)
                    tools += page.tools
                    cursor = page.next_cursor
                    if len(tools) > MAX_TOOLS or len(asked) > MAX_PAGES:
                        self.list_cut = f"it lists tools without end; {MAX_TOOLS} are taken"
                        break
                    if not cursor:
                        break
                else:
                    self.list_cut = "its list of tools goes round in a circle"
        except TimeoutError:
            self.list_cut = f"its list of tools was not complete after {LIST_SECONDS:g} s"
        except Exception as error:
            if not tools:
                await self.close()
                raise self._gone(f"its tools cannot be listed: {_reason(error)}") from None
            self.list_cut = f"its list of tools broke off: {_reason(error)}"
        return tools[:MAX_TOOLS]

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool; a server that died is started again at the next call, not at this one.

        Raises `ToolError`: whether a call that was cut off took effect is unknown.
        """
        from mcp import MCPError

        client = await self._connected()
        try:
            return await self._or_unreadable(client.call_tool(tool, arguments))
        except ToolError:
            raise
        except MCPError as error:
            if await self._alive():
                raise ToolError(f"MCP server {self.server.name}: {_reason(error)}") from None
            why = _reason(error)
        except Exception as error:
            why = _reason(error)
        await self.close()
        raise self._gone(f"{why}. The call may have taken effect")

    async def _or_unreadable(self, call: Coroutine[Any, Any, T]) -> T:
        """The call's result; a reply that is not JSON never reaches the call, which would wait on.

        Raises `ToolError` for such a reply.
        """
        self._unreadable.clear()
        work = asyncio.ensure_future(call)
        broken = asyncio.ensure_future(self._unreadable.wait())
        try:
            await asyncio.wait({work, broken}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise ToolError(
                f"MCP server {self.server.name}: its reply cannot be read (it is not valid JSON). "
                "The call may have taken effect"
            )
        finally:
            broken.cancel()
            work.cancel()

    async def _heard(self, message: object) -> None:
        """Told of all that is no answer. Lines that a server prints by mistake are none either."""
        if isinstance(message, Exception) and "jsonrpc" in str(message):
            self._unreadable.set()

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
                self._be_lenient(client)
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

    def _be_lenient(self, client: Client) -> None:
        """The client refuses a whole list for one bad tool, and checks results against the server's
        output schemas without a limit of time. Here a bad tool costs itself, and results are shown
        to the model as they are."""
        session = client.session
        session.validate_tool_result = _take_as_it_is  # type: ignore[method-assign]
        dispatcher = getattr(session, "_dispatcher", None)
        send = getattr(dispatcher, "send_raw_request", None)
        if send is None:  # another version of the client; then its own rule holds
            return

        async def send_and_sort_out(method: str, *rest: Any, **named: Any) -> Any:
            raw = await send(method, *rest, **named)
            if method == "tools/list" and isinstance(raw, dict):
                raw["tools"] = self._well_formed(raw.get("tools"))
            return raw

        with contextlib.suppress(AttributeError):
            dispatcher.send_raw_request = send_and_sort_out  # type: ignore[union-attr]

    def _well_formed(self, tools: Any) -> list[Any]:
        """The tools of a raw list that are tools; the others are kept in `rejected` by name."""
        from mcp.types import Tool as RemoteTool

        kept: list[Any] = []
        for number, tool in enumerate(tools if isinstance(tools, list) else []):
            name = tool.get("name") if isinstance(tool, dict) else None
            if not isinstance(name, str):
                self.rejected[f"(number {number})"] = "it has no name"
                continue
            schema = tool.get("inputSchema")
            if not isinstance(schema, dict):
                self.rejected[name[:80]] = "its inputSchema is not an object"
                continue
            if name not in self.schemas:
                self.schemas[name] = schema
            known = {key: tool[key] for key in _TOOL_KEYS if tool.get(key) is not None}
            if not _is_usual(schema):  # ours to read, not the client's
                known["inputSchema"] = {"type": "object"}
            try:
                RemoteTool.model_validate(known, by_name=False)
            except (ValueError, RecursionError) as error:
                why = str(error).splitlines()[1:3] or [type(error).__name__]
                self.rejected[name[:80]] = " ".join(each.strip() for each in why)[:300]
            else:
                kept.append(known)
        return kept

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
            return Client(
                stdio_client(parameters, errlog=self._errors), message_handler=self._heard
            )
        if self.server.headers:
            import httpx2

            http = httpx2.AsyncClient(headers=dict(self.server.headers), timeout=60)
            await stack.enter_async_context(http)
            return Client(
                streamable_http_client(self.server.url, http_client=http),
                message_handler=self._heard,
            )
        return Client(self.server.url, message_handler=self._heard)

    def _gone(self, why: str) -> ToolError:
        text = f"MCP server {self.server.name} is not available: {why}"
        said = self._last_words
        return ToolError(f"{text}. It said: {said}" if said else text)


def _is_usual(schema: dict[str, Any]) -> bool:
    """Whether the client's own models take the schema."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        schema.get("type") == "object"
        and isinstance(schema.get("$schema", ""), str)
        and isinstance(properties, dict)
        and all(isinstance(each, dict) for each in properties.values())
        and isinstance(required, list)
        and all(isinstance(each, str) for each in required)
    )


async def _take_as_it_is(name: str, result: CallToolResult) -> None:
    """Checks nothing."""


def _reason(error: BaseException) -> str:
    """An error in one line; groups of errors by their first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)[:_LONGEST_REASON] or type(error).__name__
