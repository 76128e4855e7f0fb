"""Tools of MCP servers as our tools; when their schemas would fill a tenth of the window, they are
found on demand through `search_tools` instead of being declared."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from perilune.agent.schema import UnusableSchema, read_schema
from perilune.agent.tool import Tool, ToolContext, ToolResult
from perilune.agent.tool_registry import declaration
from perilune.agent.tools.mcp.search_tools import SearchTools
from perilune.agent.tools.mcp.server import BackgroundLoop, Connection, McpServer
from perilune.errors import ToolError, UsageError
from perilune.text import valid_text

if TYPE_CHECKING:
    from mcp.types import CallToolResult
    from mcp.types import Tool as RemoteTool

WINDOW_SHARE = 0.1
"""Share of the context window that declarations may fill."""

_CHARACTERS_A_TOKEN = 3.5  # of JSON schemas; an estimate is enough for a threshold
_LONGEST_NAME = 64
LONGEST_DESCRIPTION = 10_000  # characters of one tool's; the rest would only fill the window
_LONGEST_IMAGE = 20_000_000  # characters of base64
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


class McpTool:
    """One tool of a server, under a name that every API takes (see `tool_names`).

    `title` is what the server calls it, and what calls go to. `also_known_as`: other names that
    permission patterns may use. `deferred`: it can be called, but is declared only once
    `search_tools` has named it.
    """

    parallel_safe = False
    timeout: float | None = 300.0

    def __init__(
        self, remote: RemoteTool, connection: Connection, loop: BackgroundLoop, name: str = ""
    ) -> None:
        server = connection.server.name
        self.name = name or tool_names(server, [remote.name])[remote.name]
        self.title = f"mcp_{server}_{remote.name}"
        self.also_known_as = () if self.title == self.name else (self.title,)
        self.deferred = False
        self._remote = remote
        self._connection = connection
        self._loop = loop
        hints = remote.annotations
        self.side_effects = not (hints is not None and hints.read_only_hint)

    @property
    def description(self) -> str:
        text = (self._remote.description or self._remote.title or self._remote.name).strip()
        if len(text) > LONGEST_DESCRIPTION:
            text = text[:LONGEST_DESCRIPTION] + "... (cut)"
        source = f"from the MCP server {self._connection.server.name}"
        if self.also_known_as:
            source += f", where it is called {self._remote.name[:200]!r}"
        return valid_text(f"{text}\n({source})")

    @property
    def parameters(self) -> dict[str, Any]:
        return parameters_of(self._remote, self._connection)

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        call = self._connection.call(self._remote.name, arguments)
        return to_result(await self._loop.run_async(call))


class LeftOutTool:
    """A tool, or a whole server, that cannot be used; a run names it with the reason and starts."""

    description = ""
    parameters: dict[str, Any] = {}  # noqa: RUF012 (never read)
    side_effects = False
    parallel_safe = False
    timeout: float | None = None

    def __init__(self, name: str, reason: str) -> None:
        self.name = valid_text(name)[:80]
        self.unusable = valid_text(reason)

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        raise ToolError(self.unusable)


class McpTools:
    """The connected servers: `tools` for an agent, `close()` at the end."""

    def __init__(
        self, loop: BackgroundLoop, connections: Sequence[Connection], tools: Sequence[Tool]
    ) -> None:
        self.tools = list(tools)
        self._loop = loop
        self._connections = connections

    def close(self) -> None:
        """End the connections and the servers that were started."""
        for connection in self._connections:
            self._loop.run(connection.close())
        self._loop.close()

    def __enter__(self) -> McpTools:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def connect_mcp(servers: Sequence[McpServer], *, context_window: int | None = None) -> McpTools:
    """Connect to servers and take over their tools; blocking, from any thread.

    With a `context_window` (tokens) that the declarations would fill by more than a tenth, all of
    them are deferred and a `search_tools` tool is added. A server that cannot be reached, or a tool
    that cannot be used, costs its own tools only: a `LeftOutTool` stands in its place, and the run
    says so. Raises `UsageError` for two servers of one name.
    """
    names = Counter(server.name for server in servers)
    for name, count in names.items():
        if count > 1:
            raise UsageError(f"two MCP servers are called {name!r}", remedy="Rename one.")
    loop = BackgroundLoop()
    connections: list[Connection] = []
    tools: list[McpTool] = []
    left_out: list[LeftOutTool] = []
    try:
        for server in servers:
            connection = loop.run(_make_connection(server))
            connections.append(connection)
            try:
                remotes = loop.run(connection.list_tools())
            except ToolError as error:
                left_out.append(LeftOutTool(f"mcp_{server.name}", f"{error.message[:2000]}"))
                continue
            if connection.list_cut:
                left_out.append(LeftOutTool(f"mcp_{server.name}", connection.list_cut))
            for bad, why in connection.rejected.items():
                why = f"the server describes it wrongly: {why}"
                left_out.append(LeftOutTool(f"mcp_{server.name}_{bad}", why))
            usable, unusable = sort_out(connection, remotes)
            left_out += unusable
            named = tool_names(
                server.name,
                [remote.name for remote in usable],
                taken=(tool.name for tool in tools),
            )
            tools += [McpTool(each, connection, loop, named[each.name]) for each in usable]
    except BaseException:
        McpTools(loop, connections, []).close()
        raise
    real = {tool.name for tool in tools}
    titles = Counter(tool.title for tool in tools)
    for tool in tools:  # a pattern must not mean another tool than the one that it names
        if tool.title in real or titles[tool.title] > 1:
            tool.also_known_as = ()
    found: list[Tool] = [*tools, *left_out]
    if context_window and declared_tokens(tools) > WINDOW_SHARE * context_window:
        for tool in tools:
            tool.deferred = True
        found = [SearchTools(tools), *found]
    return McpTools(loop, connections, found)


def parameters_of(remote: RemoteTool, connection: Connection) -> dict[str, Any]:
    """The tool's schema as the server wrote it."""
    schema = connection.schemas.get(remote.name, remote.input_schema)
    return {**schema, "type": "object"} if schema.get("type") is None else schema


def sort_out(
    connection: Connection, remotes: Sequence[RemoteTool]
) -> tuple[list[RemoteTool], list[LeftOutTool]]:
    """The tools that can be offered, and the others with the reason."""
    usable: list[RemoteTool] = []
    left_out: list[LeftOutTool] = []
    seen: set[str] = set()
    for remote in remotes:
        why = ""
        if not remote.name.strip():
            why = "it has no name"
        elif remote.name in seen:
            why = "the server lists another tool of that name, which is the one that it calls"
        else:
            try:
                read_schema(parameters_of(remote, connection))
            except UnusableSchema as error:
                why = f"its parameters are not a JSON schema: {error.message}"
        seen.add(remote.name)
        if why:
            left_out.append(LeftOutTool(f"mcp_{connection.server.name}_{remote.name}", why))
        else:
            usable.append(remote)
    return usable, left_out


async def _make_connection(server: McpServer) -> Connection:
    return Connection(server)  # its events belong to the background loop


def declared_tokens(tools: Sequence[Tool]) -> int:
    """About how many tokens the declarations of tools take."""
    characters = sum(len(json.dumps(declaration(tool))) for tool in tools)
    return int(characters / _CHARACTERS_A_TOKEN)


def tool_names(server: str, tools: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """The server's names of tools -> names that every API takes: `[a-zA-Z0-9_-]{1,64}`.

    `mcp_<server>_<tool>` where that fits. Where a character was changed, the name was cut, or two
    differ in nothing but case, eight digits of a hash of server and tool follow: the same at every
    start, whatever other tools there are.
    """
    plain = {name: _plain_name(server, name) for name in tools}
    lower = Counter(each.lower() for each in plain.values())
    used = {each.lower() for each in taken}
    names: dict[str, str] = {}
    for name in tools:
        exact = plain[name] == f"mcp_{server}_{name}"
        if exact and lower[plain[name].lower()] == 1 and plain[name].lower() not in used:
            names[name] = plain[name]
        else:
            digest = hashlib.sha256(f"{server}\0{name}".encode("utf-8", "replace")).hexdigest()
            # The beginning and the hash; many underscores in a row say nothing.
            start = re.sub(r"__+", "_", plain[name])[: _LONGEST_NAME - 9].rstrip("_")
            names[name] = next(
                each
                for length in range(8, 56)
                if (each := f"{start[: 63 - length]}_{digest[:length]}").lower() not in used
            )
        used.add(names[name].lower())
    return names


def _plain_name(server: str, tool: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"mcp_{server}_{tool[:200]}")[:_LONGEST_NAME]


def to_result(result: CallToolResult) -> ToolResult:
    """What a server answered, as text and images. An error of the tool is a result too."""
    from mcp.types import TextResourceContents

    parts: list[dict[str, Any]] = []
    for block in result.content:
        if block.type == "text":
            parts.append({"type": "text", "text": valid_text(block.text)})
        elif block.type == "image" and (why := _no_image(block.mime_type, block.data)):
            parts.append({"type": "text", "text": f"(an image that cannot be shown: {why})"})
        elif block.type == "image":
            url = f"data:{block.mime_type};base64,{block.data}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif block.type == "resource" and isinstance(block.resource, TextResourceContents):
            text = valid_text(f"{block.resource.uri}\n{block.resource.text}")
            parts.append({"type": "text", "text": text})
        else:
            where = getattr(block, "uri", "") or getattr(block, "mime_type", "") or ""
            text = valid_text(f"({block.type} {str(where)[:500]}, not shown)")
            parts.append({"type": "text", "text": text})
    if not parts and result.structured_content is not None:
        try:
            text = valid_text(json.dumps(result.structured_content, ensure_ascii=False))
        except (ValueError, RecursionError):
            text = "(structured content that is nested too deeply to be shown)"
        parts.append({"type": "text", "text": text})
    error = bool(result.is_error)
    if all(part["type"] == "text" for part in parts):
        text = "\n".join(part["text"] for part in parts)
        return ToolResult(text or "(no output)", is_error=error)
    return ToolResult(parts, is_error=error)


def _no_image(kind: str, data: str) -> str:
    """Why a model cannot be shown the image; "" where it can."""
    if kind not in _IMAGES:
        return f"it is {valid_text(kind)[:60]!r}"
    if len(data) > _LONGEST_IMAGE:
        return f"it has {len(data)} characters, at most {_LONGEST_IMAGE}"
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        return "its data is not base64"
    return ""
