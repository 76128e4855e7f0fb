"""`perilune agent-server`: the agent as a tool of other programs, over MCP or Agent2Agent."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from perilune.cli.agent_flags import NO_FLAGS, NO_RULES, AgentFlags, RuleFlags, settings_of
from perilune.cli.option_groups import Without, with_option_groups

app = typer.Typer(add_completion=False)


class Protocol(StrEnum):
    MCP = "mcp"
    MCP_HTTP = "mcp-http"
    A2A = "a2a"


@app.command()
@with_option_groups
def agent_server(
    protocol: Annotated[
        Protocol,
        typer.Option("--protocol", help="MCP over stdin and stdout, or over HTTP; or Agent2Agent."),
    ] = Protocol.MCP,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8422,
    who: Annotated[AgentFlags, Without("resume")] = NO_FLAGS,
    rules: Annotated[RuleFlags, Without("effort", "recipe", "thinking_tokens")] = NO_RULES,
) -> None:
    """Serve the agent: MCP clients get one tool, `run_task`; A2A clients one skill.

    Nobody can be asked here, so calls that match --ask are refused. Over HTTP there is no login:
    listen on an address that only you can reach.
    """
    from perilune.agent.build import build_agent

    agent = build_agent(
        settings_of(who, rules), workspace=who.workspace, system_prompt=rules.system_prompt
    )
    if protocol is Protocol.A2A:
        import uvicorn

        from perilune.serve.agents.a2a_server import build_app

        uvicorn.run(build_app(agent, f"http://{host}:{port}"), host=host, port=port)
        return
    from perilune.serve.agents.mcp_server import build_server

    server = build_server(agent)
    if protocol is Protocol.MCP:
        asyncio.run(server.run_stdio_async())
    else:
        asyncio.run(server.run_streamable_http_async(host=host, port=port))
