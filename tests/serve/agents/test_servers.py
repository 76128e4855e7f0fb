"""The agent as a tool of others: the official MCP client (in process, stdio, HTTP), and A2A."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters

from perilune.agent.models.scripted import Call, Refused, Reply
from perilune.home import runs_folder
from perilune.serve.agents.mcp_server import build_server
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent
from tests.agent.openai_server import OpenAIServer, call, delta

ROOT = Path(__file__).resolve().parents[3]


async def test_mcp_serves_a_run(make_agent: MakeAgent, workspace):
    tape = [Reply(calls=[Call("append_line", {"line": "x"})]), Reply("done it")]
    agent = make_agent(tape, [tools.append_line])
    said = []

    async def progress(step, total, message):
        said.append((step, message))

    async with Client(build_server(agent)) as client:
        (declared,) = (await client.list_tools()).tools
        assert declared.name == "run_task"
        assert set(declared.input_schema["properties"]) == {"task", "resume"}
        result = await client.call_tool("run_task", {"task": "t"}, progress_callback=progress)
        assert not result.is_error
        report = result.structured_content
        assert (report["answer"], report["reason"], report["steps"]) == ("done it", "done", 2)
        again = await client.call_tool("run_task", {"task": "more", "resume": report["run"]})
        assert again.structured_content["run"] == report["run"]
    assert (1, "append_line") in said
    assert (workspace / "log.txt").read_text() == "x\n"


async def test_mcp_says_why_a_run_failed(make_agent: MakeAgent):
    agent = make_agent([Refused("no such model")])
    async with Client(build_server(agent)) as client:
        result = await client.call_tool("run_task", {"task": "t"})
    assert result.is_error
    assert "no such model" in result.content[0].text


ANSWERS = [
    [delta(tool_calls=[call(0, "c0", "write_file", '{"path": "a.txt", "content": "hi"}')],
           finish="tool_calls")],
    [delta(content="wrote a.txt", finish="stop")],
]  # fmt: skip


def arguments(server: OpenAIServer, workspace: Path, *more: str) -> list[str]:
    main = ["-c", "from perilune.cli.main import main; main()", "agent-server"]
    flags = ["--endpoint", server.url, "--tools", "files", "--workspace", str(workspace)]
    return [*main, *flags, *more]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PERILUNE_HOME": str(home)}


async def test_mcp_over_stdio(workspace, home):
    with OpenAIServer(ANSWERS) as server:
        parameters = StdioServerParameters(
            command=sys.executable, args=arguments(server, workspace), env=environment(home)
        )
        async with Client(parameters) as client:
            result = await client.call_tool("run_task", {"task": "write a.txt"})
    assert result.structured_content["answer"] == "wrote a.txt"
    assert (workspace / "a.txt").read_text() == "hi"
    assert (runs_folder(home) / result.structured_content["run"] / "journal.db").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def wait_for(url: str) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            try:
                await client.get(url)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return
    raise AssertionError(f"nothing answers at {url}")


@pytest.mark.parametrize("protocol", ["mcp-http", "a2a"])
async def test_over_http(workspace, home, protocol):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with OpenAIServer(ANSWERS) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments(server, workspace, "--protocol", protocol, "--port", str(port)),
            env=environment(home),
        )
        try:
            await wait_for(url)
            answer = await (ask_mcp(url) if protocol == "mcp-http" else ask_a2a(url))
        finally:
            process.terminate()
            await process.wait()
    assert answer == "wrote a.txt"
    assert (workspace / "a.txt").read_text() == "hi"


async def ask_mcp(url: str) -> str:
    async with Client(f"{url}/mcp") as client:
        result = await client.call_tool("run_task", {"task": "write a.txt"})
    return json.loads(result.content[0].text)["answer"]


async def ask_a2a(url: str) -> str:
    from a2a.client import create_client
    from a2a.helpers.proto_helpers import get_artifact_text, new_text_message
    from a2a.types.a2a_pb2 import Role, SendMessageRequest, TaskState

    states, answer = [], ""
    async with await create_client(url) as client:
        message = new_text_message("write a.txt", role=Role.ROLE_USER)
        async for event in client.send_message(SendMessageRequest(message=message)):
            if event.HasField("status_update"):
                states.append(event.status_update.status.state)
            if event.HasField("artifact_update"):
                answer = get_artifact_text(event.artifact_update.artifact)
    assert TaskState.TASK_STATE_WORKING in states
    assert states[-1] == TaskState.TASK_STATE_COMPLETED
    return answer
