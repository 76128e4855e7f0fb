"""`perilune agent-server`: the agent as a tool of other programs, over MCP or Agent2Agent."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from perilune.cli import agent_options as flags

app = typer.Typer(add_completion=False)


class Protocol(StrEnum):
    MCP = "mcp"
    MCP_HTTP = "mcp-http"
    A2A = "a2a"


@app.command()
def agent_server(
    protocol: Annotated[
        Protocol,
        typer.Option("--protocol", help="MCP over stdin and stdout, or over HTTP; or Agent2Agent."),
    ] = Protocol.MCP,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8422,
    model: flags.Model = None,
    endpoint: flags.Endpoint = None,
    api_key_env: flags.ApiKeyEnv = None,
    tools: flags.Tools = None,
    mcp: flags.Mcp = None,
    workspace: flags.Workspace = None,
    max_steps: flags.MaxSteps = None,
    max_tokens: flags.MaxTokens = None,
    max_seconds: flags.MaxSeconds = None,
    allow: flags.Allow = None,
    ask: flags.Ask = None,
    deny: flags.Deny = None,
    context_strategy: flags.ContextStrategy = None,
    context_window: flags.ContextWindow = None,
    system_prompt: flags.SystemPrompt = None,
    sandbox: flags.SandboxKind = None,
    no_snapshot: flags.NoSnapshot = False,
) -> None:
    """Serve the agent: MCP clients get one tool, `run_task`; A2A clients one skill.

    Nobody can be asked here, so calls that match --ask are refused. Over HTTP there is no login:
    listen on an address that only you can reach.
    """
    options = flags.AgentOptions(
        model=model,
        endpoint=endpoint,
        api_key_env=api_key_env,
        tools=tools,
        mcp=mcp or [],
        max_steps=max_steps,
        max_tokens=max_tokens,
        max_seconds=max_seconds,
        allow=allow or [],
        ask=ask or [],
        deny=deny or [],
        context_strategy=context_strategy,
        context_window=context_window,
        sandbox=sandbox,
        snapshot=not no_snapshot,
    )
    agent = flags.build_agent(options, workspace=workspace, system_prompt=system_prompt)
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
