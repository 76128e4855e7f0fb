"""MCP servers as tools: over stdio and streamable HTTP, searched on demand, dying."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.agent import Agent
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.permissions.permissions import Permissions
from perilune.agent.tool import ToolContext
from perilune.agent.tool_registry import ToolRegistry
from perilune.agent.tools.mcp import McpServer, McpTools, connect_mcp
from perilune.agent.tools.mcp.provider import LeftOutTool, McpTool, declared_tokens, tool_names
from perilune.agent.tools.mcp.search_tools import SearchTools
from perilune.errors import ToolError, UsageError
from perilune.events import ToolFinished, ToolLeftOut
from perilune.home import find_run
from tests.agent.tools.mcp_example import server as example

STRANGE = str(Path(__file__).with_name("mcp_strange.py"))
SERVER = str(Path(__file__).with_name("mcp_example.py"))


@pytest.fixture(scope="module")
def stdio() -> Iterator[McpTools]:
    with connect_mcp([McpServer("example", command=[sys.executable, SERVER])]) as tools:
        yield tools


@pytest.fixture(scope="module")
def http() -> Iterator[McpTools]:
    config = uvicorn.Config(example.streamable_http_app(), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    with connect_mcp([McpServer("example", url=url, headers={"X-Key": "x"})]) as tools:
        yield tools
    server.should_exit = True
    thread.join(10)


@pytest.fixture(params=["stdio", "http"])
def registry(request: pytest.FixtureRequest) -> ToolRegistry:
    return ToolRegistry(request.getfixturevalue(request.param).tools)


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    return ToolContext(workspace=tmp_path)


async def test_a_tool_works_over_stdio_and_http(
    registry: ToolRegistry, context: ToolContext
) -> None:
    assert registry.names == [
        "mcp_example_add",
        "mcp_example_fail",
        "mcp_example_die",
        "mcp_example_environment",
    ]
    add = registry["mcp_example_add"]
    assert "Add two numbers" in add.description
    assert add.parameters["required"] == ["a", "b"]
    assert not add.side_effects
    assert registry["mcp_example_fail"].side_effects
    arguments = registry.parse_arguments("mcp_example_add", '{"a": 2, "b": 3}')
    assert (await add.run(arguments, context)).content == "5"


async def test_arguments_are_checked_before_the_server_is_asked(registry: ToolRegistry) -> None:
    with pytest.raises(ToolError, match="do not fit"):
        registry.parse_arguments("mcp_example_add", '{"a": "two"}')


async def test_an_error_of_the_tool_is_a_result(
    registry: ToolRegistry, context: ToolContext
) -> None:
    result = await registry["mcp_example_fail"].run({"text": "no paper left"}, context)
    assert result.is_error
    assert "no paper left" in str(result.content)


async def test_our_secrets_are_not_the_servers(
    monkeypatch: pytest.MonkeyPatch, context: ToolContext
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    server = McpServer("example", command=[sys.executable, SERVER], environment={"GIVEN": "yes"})
    with connect_mcp([server]) as tools:
        run = ToolRegistry(tools.tools)["mcp_example_environment"].run
        names = str((await run({}, context)).content).split()
    assert "GIVEN" in names
    assert "SECRET_TOKEN" not in names


async def test_a_dying_server_is_said_and_comes_back(stdio: McpTools, context: ToolContext) -> None:
    registry = ToolRegistry(stdio.tools)
    with pytest.raises(ToolError, match="MCP server example is not available") as caught:
        await registry["mcp_example_die"].run({}, context)
    assert "last words of the server" in caught.value.message
    assert "may have taken effect" in caught.value.message
    result = await registry["mcp_example_add"].run({"a": 1, "b": 1}, context)
    assert result.content == "2"


def test_a_server_that_cannot_start_costs_only_its_own_tools() -> None:
    program = "import sys; sys.exit('no such luck')"
    servers = [
        McpServer("broken", command=[sys.executable, "-c", program]),
        McpServer("absent", command=["/no/such/program"]),
        McpServer("far", url="http://127.0.0.1:9/mcp"),
        McpServer("example", command=[sys.executable, SERVER]),
    ]
    with connect_mcp(servers) as tools:
        registry = ToolRegistry()
        for tool in tools.tools:
            registry.add_usable(tool)
    assert len(registry) == 4
    reasons = {each.name: each.reason for each in registry.left_out}
    assert list(reasons) == ["mcp_broken", "mcp_absent", "mcp_far"]
    assert "no such luck" in reasons["mcp_broken"]
    assert all("is not available" in reason for reason in reasons.values())
    with pytest.raises(UsageError, match="command or a url"):
        McpServer("neither")
    with pytest.raises(UsageError, match="two MCP servers"):
        connect_mcp([McpServer("a", command=["x"]), McpServer("a", command=["y"])])


def of_one(kind: str) -> McpServer:
    return McpServer("strange", command=[sys.executable, STRANGE, kind])


async def test_strange_tools_cost_only_themselves(context: ToolContext) -> None:
    """Names in other scripts are told apart; what is no tool is left out by name, and why."""
    with connect_mcp([of_one("tools")]) as tools:
        registry = ToolRegistry()
        for tool in tools.tools:
            registry.add_usable(tool)
        assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in registry.names)
        assert len({name.lower() for name in registry.names}) == len(registry.names)
        by_title = {tool.title: tool for tool in registry}
        for name in (
            "查询",
            "删除",
            "a.b",
            "a/b",
            "Case",
            "case",
            "x" * 10_000,
            "tab\there",
            "good",
        ):
            tool = by_title[f"mcp_strange_{name}"]
            assert (await tool.run({}, context)).content == f"called {name[:100]!r}"
        assert by_title["mcp_strange_good"].name == "mcp_strange_good"
        assert "查询" in by_title["mcp_strange_查询"].description
        reasons = {each.name: each.reason for each in registry.left_out}
    assert "no name" in reasons["mcp_strange_"]
    assert "another tool of that name" in reasons["mcp_strange_good"]
    assert "not a JSON schema" in reasons["mcp_strange_dangling"]
    assert "wrongly" in reasons["mcp_strange_no schema"]
    assert "wrongly" in reasons["mcp_strange_schema is text"]
    assert "wrongly" in reasons["mcp_strange_(number 13)"]


async def test_strange_results_are_results(context: ToolContext) -> None:
    with connect_mcp([of_one("tools")]) as tools:
        named = {tool.name: tool for tool in tools.tools if isinstance(tool, McpTool)}
        run = named["mcp_strange_good"].run
        shown = {}
        for kind in ("image", "base64", "odd", "output"):
            shown[kind] = (await run({"give": kind}, context)).content
        with pytest.raises(ToolError):
            await run({"give": "nonsense"}, context)
        with pytest.raises(ToolError, match="cannot be read"):
            await run({"give": "half"}, context)
        assert (await run({}, context)).content == "called 'good'"  # and the server is there still
    assert isinstance(shown["image"], list)
    assert "not base64" in shown["base64"]
    assert "application/x-odd" in shown["odd"]
    assert shown["output"]


@pytest.mark.parametrize(("kind", "why"), [("circle", "circle"), ("endless", "without end")])
def test_a_list_without_end_is_cut(kind: str, why: str) -> None:
    with connect_mcp([of_one(kind)]) as tools:
        left_out = [tool for tool in tools.tools if isinstance(tool, LeftOutTool)]
        assert any(why in tool.unusable for tool in left_out)
        assert 0 < len(tools.tools) - len(left_out) <= 2_000


def test_names_of_two_servers_do_not_meet() -> None:
    first = tool_names("a", ["b_c", "查询"])
    second = tool_names("a_b", ["c"], taken=first.values())
    assert first["b_c"] == "mcp_a_b_c"
    assert second["c"] != "mcp_a_b_c"
    assert second["c"].startswith("mcp_a_b_c_")
    assert tool_names("a", ["查询"])["查询"] == first["查询"]  # whatever else there is


@given(
    server=st.text(min_size=1, max_size=30),
    tools=st.lists(st.text(min_size=1, max_size=90), unique=True, max_size=8),
    other=st.lists(st.text("aA_-.é查", min_size=1, max_size=70), unique=True, max_size=8),
)
def test_names_are_unique_and_what_apis_take(
    server: str, tools: list[str], other: list[str]
) -> None:
    first = tool_names(server, tools)
    second = tool_names(server + "_x", other, taken=first.values())
    names = [*first.values(), *second.values()]
    assert len({name.lower() for name in names}) == len(tools) + len(other)
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", name) for name in names)
    # Stable whatever the order, as long as they are the same tools.
    assert tool_names(server, list(reversed(tools))) == first


async def test_a_pattern_may_name_the_title_or_the_name(tmp_path: Path) -> None:
    tape = [Reply(calls=[Call(tool_names("strange", ["删除"])["删除"], {})]), Reply("Done.")]
    for rule in ("mcp_strange_删除", tool_names("strange", ["删除"])["删除"], "mcp_strange_*"):
        (tmp_path / "w").mkdir(exist_ok=True)
        with connect_mcp([of_one("tools")]) as tools:
            model = ScriptedModel(list(tape))
            agent = Agent(
                model,
                tools.tools,
                workspace=tmp_path / "w",
                home=tmp_path / "home",
                permissions=Permissions(deny=[rule]),
            )
            result = await agent.arun("delete it")
        records = read_journal(find_run(result.run, tmp_path / "home")).records
        finished = [r.event for r in records if isinstance(r.event, ToolFinished)]
        assert [each.outcome for each in finished] == ["denied"], rule
        left_out = [r.event.name for r in records if isinstance(r.event, ToolLeftOut)]
        assert "mcp_strange_dangling" in left_out


class Recording(ScriptedModel):
    """Keeps the names of the tools that were declared at each step."""

    def __init__(self, tape: list[Reply]) -> None:
        super().__init__(tape)
        self.declared: list[list[str]] = []

    def complete(self, messages: Any, tools: Any = (), *rest: Any, **named: Any) -> Any:
        self.declared.append([each["function"]["name"] for each in tools])
        return super().complete(messages, tools, *rest, **named)


async def test_many_tools_are_searched_on_demand(tmp_path: Path) -> None:
    """In a run: found by words, declared from the next step on, and called."""
    server = McpServer("example", command=[sys.executable, SERVER, "many"])
    tape = [
        Reply(calls=[Call("search_tools", {"query": "creating calendar events"})]),
        Reply(calls=[Call("mcp_example_make_7", {"text": "lunch"})]),
        Reply(calls=[Call("search_tools", {"query": "zzz"})]),
        Reply("Made."),
    ]
    (tmp_path / "workspace").mkdir()
    with connect_mcp([server], context_window=32_000) as tools:
        assert isinstance(tools.tools[0], SearchTools)
        assert declared_tokens(tools.tools[1:]) > 3_200
        model = Recording(tape)
        agent = Agent(model, tools.tools, workspace=tmp_path / "workspace", home=tmp_path / "home")
        result = await agent.arun("make lunch")
    assert result.ok, result
    first, second, third = model.declared[:3]
    assert "search_tools" in first
    assert not any(name.startswith("mcp_") for name in first)
    assert "mcp_example_make_7" in second
    assert len(second) < 12
    assert second == third
    said = [m["content"] for m in model.prompts[-1] if m["role"] == "tool"]
    assert said[0].startswith('{"name": "mcp_example_make_7"')
    assert said[1] == "7: lunch"
    assert said[2].startswith("no tool fits")


def test_few_tools_are_declared_as_they_are(stdio: McpTools) -> None:
    assert not any(isinstance(tool, SearchTools) for tool in stdio.tools)
    assert not any(getattr(tool, "deferred", False) for tool in stdio.tools)


def test_names_are_what_endpoints_accept() -> None:
    assert tool_names("srv", ["add", "a-b"]) == {"add": "mcp_srv_add", "a-b": "mcp_srv_a-b"}
    assert re.fullmatch(
        r"mcp_my_server_a_b_c_[0-9a-f]{8}", tool_names("my server", ["a.b/c"])["a.b/c"]
    )
    assert len(tool_names("x" * 50, ["y" * 50])["y" * 50]) <= 64
