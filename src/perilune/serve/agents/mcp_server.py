"""The agent as an MCP server: one tool, `run_task`, for any client of the Model Context Protocol.

Steps are reported as progress; cancelling the call interrupts the run, which can be resumed later.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perilune.agent.agent import Agent
from perilune.agent.endings import DONE, UNVERIFIED
from perilune.events import AssistantMessage, Record, StepStarted, ToolStarted

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

DESCRIPTION = """\
Give a task to an agent that works on it by itself with tools of its own, step by step, and returns
the answer. Say everything it needs to know: it does not see your conversation. It can take minutes;
progress is reported. With `resume`, it goes on with an earlier run (its id is in the result)."""


@dataclass
class TaskReport:
    """What `run_task` returns. `reason` is "done", or names what ended the run."""

    answer: str
    run: str
    reason: str
    detail: str
    steps: int


def build_server(agent: Agent) -> MCPServer[Any]:
    """An MCP server whose one tool runs tasks with `agent`; calls may run side by side."""
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    server: MCPServer[Any] = MCPServer("perilune", instructions=DESCRIPTION, log_level="WARNING")

    async def run_task(task: str, ctx: Context[Any, Any], resume: str | None = None) -> TaskReport:
        steps: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

        def listen(record: Record) -> None:
            if (said := _progress(record)) is not None:
                steps.put_nowait(said)

        async def report() -> None:
            total = agent.budget.steps
            while True:
                step, words = await steps.get()
                await ctx.report_progress(step, total, words)

        reporter = asyncio.create_task(report())
        try:
            async with agent.session(resume=resume) as session:
                session.listeners.append(listen)
                result = await session.run(task)
        finally:
            reporter.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reporter
        if result.reason not in (DONE, UNVERIFIED):
            raise ToolError(f"run {result.run} ended: {result.reason}. {result.detail}")
        return TaskReport(
            answer=result.answer,
            run=result.run,
            reason=result.reason,
            detail=result.detail,
            steps=result.steps,
        )

    # `Context` is imported in this function, so its annotation is resolved here.
    run_task.__annotations__.update({"ctx": Context, "return": TaskReport})
    server.add_tool(run_task, description=DESCRIPTION)
    return server


def _progress(record: Record) -> tuple[int, str] | None:
    event = record.event
    match event:
        case StepStarted(step=step):
            return step, "thinking"
        case AssistantMessage(step=step, tool_calls=[]):
            return step, "answering"
        case ToolStarted(step=step, name=name):
            return step, name
    return None
