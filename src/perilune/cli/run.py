"""`perilune run`: one task, worked on until it is answered; the answer alone goes to stdout."""

from __future__ import annotations

import asyncio
import signal
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perilune.cli import agent_options as flags
from perilune.cli import swarm_run
from perilune.cli.cluster_options import DatabaseUrl, database_url
from perilune.cli.lines import Lines
from perilune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from perilune.agent.agent import Agent, RunResult
    from perilune.agent.permissions import PermissionAnswer, PermissionRequest
    from perilune.cli.agent_view import AgentView
    from perilune.events import Record
    from perilune.swarm.result import SwarmResult

app = typer.Typer(add_completion=False)

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


class OutputFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    STREAM_JSON = "stream-json"


@app.command()
def run(
    task: Annotated[str | None, typer.Argument(help="The task; '-' reads it from stdin.")] = None,
    model: flags.Model = None,
    endpoint: flags.Endpoint = None,
    api_key_env: flags.ApiKeyEnv = None,
    tools: flags.Tools = None,
    mcp: flags.Mcp = None,
    workspace: flags.Workspace = None,
    resume: flags.Resume = None,
    output_format: Annotated[
        OutputFormat,
        typer.Option("--output-format", help="stdout: the answer, one JSON object, or all events."),
    ] = OutputFormat.TEXT,
    effort: flags.Effort = None,
    recipe: flags.Recipe = None,
    max_steps: flags.MaxSteps = None,
    max_tokens: flags.MaxTokens = None,
    thinking_tokens: flags.ThinkingTokens = None,
    max_seconds: flags.MaxSeconds = None,
    allow: flags.Allow = None,
    ask: flags.Ask = None,
    deny: flags.Deny = None,
    context_strategy: flags.ContextStrategy = None,
    context_window: flags.ContextWindow = None,
    system_prompt: flags.SystemPrompt = None,
    sandbox: flags.SandboxKind = None,
    no_snapshot: flags.NoSnapshot = False,
    swarm: Annotated[
        bool, typer.Option("--swarm", help="Let the agent split the task among sub-agents.")
    ] = False,
    swarm_limits: Annotated[
        str | None,
        typer.Option(
            "--swarm-limits",
            metavar="NAME=VALUE,...",
            help="Limits of the swarm, e.g. main_steps=100,sub_agents=30,parallel=8.",
        ),
    ] = None,
    database: DatabaseUrl = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Problems only on stderr.")] = False,
) -> None:
    """Work on a task with tools until it is answered.

    Exit codes: 0 answered, 1 ended without a (verified) answer, 2 wrong usage, 130 interrupted.
    """
    if task == "-":
        task = sys.stdin.read()
    if task is not None and not task.strip():
        raise UsageError("the task is empty")
    if task is None and resume is None:
        raise UsageError("there is no task", remedy='Write perilune run "TASK", or --resume RUN.')
    options = flags.AgentOptions(
        model=model,
        endpoint=endpoint,
        api_key_env=api_key_env,
        tools=tools,
        mcp=mcp or [],
        effort=effort,
        recipe=recipe,
        max_steps=max_steps,
        max_tokens=max_tokens,
        thinking_tokens=thinking_tokens,
        max_seconds=max_seconds,
        allow=allow or [],
        ask=ask or [],
        deny=deny or [],
        context_strategy=context_strategy,
        context_window=context_window,
        sandbox=sandbox,
        snapshot=not no_snapshot,
    )
    agent = flags.build_agent(
        options,
        workspace=workspace,
        system_prompt=system_prompt,
        resume=resume,
        task=None if resume else task,
    )

    from rich.console import Console

    from perilune.cli.agent_view import AgentView

    console = Console(stderr=True)
    view = AgentView(console, quiet=quiet)
    show: Callable[[Record], None] = view
    if options.model == flags.NANO and not quiet:
        console.print(f"· {flags.NANO_LINE}", style="dim")
    if sys.stdin.isatty():
        agent.approver = TerminalApprover(console, view)

    def listen(record: Record) -> None:
        if output_format is OutputFormat.STREAM_JSON:
            print_record(record)
        show(record)

    result: RunResult | SwarmResult
    if swarm or swarm_limits or swarm_run.kept_swarm(resume):
        whole = swarm_run.build_swarm(
            agent,
            swarm_limits,
            swarm_run.kept_swarm(resume),
            max_steps=max_steps,
            database=database_url(database) if database else None,
        )
        together = swarm_run.SwarmView(console, view, quiet=quiet)
        show = together
        result = asyncio.run(swarm_run.work(whole, task, resume, listen))
        together.end(result)
    else:
        agent.on_record = listen
        result = asyncio.run(work(agent, task, resume, effort))
    view.wait()
    if output_format is OutputFormat.TEXT:
        if result.answer:
            print(result.answer)
    elif output_format is OutputFormat.JSON:
        print(result_json(result))
    if result.reason == "interrupted":
        console.print(f"· go on with: perilune run --resume {result.run}", style="dim")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not result.ok:
        raise typer.Exit(EXIT_FAILED)


async def work(agent: Agent, task: str | None, resume: str | None, effort: str | None) -> RunResult:
    """Run, with Ctrl-C as an orderly end; a second one is a hard one."""
    from perilune.agent.effort import effort_named
    from perilune.agent.heavy import run_heavy

    trajectories = effort_named(effort).trajectories if effort else 1
    loop = asyncio.get_running_loop()
    async with agent.session(resume=resume) as session:

        def interrupt() -> None:
            session.interrupt()
            loop.remove_signal_handler(signal.SIGINT)

        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, session.interrupt, "terminated")
        try:
            if trajectories > 1 and task is not None and resume is None:
                return await run_heavy(session, task, trajectories=trajectories)
            return await session.run(task)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)
            await agent.model.close()


def print_record(record: Record) -> None:
    from perilune.events import encode_record

    sys.stdout.buffer.write(encode_record(record) + b"\n")
    sys.stdout.buffer.flush()


def result_json(result: RunResult | SwarmResult) -> str:
    if hasattr(result, "critical_steps"):
        return msgspec.json.encode(result).decode()
    fields = {
        "run": result.run,
        "answer": result.answer,
        "reason": result.reason,
        "detail": result.detail,
        "steps": result.steps,
        "usage": msgspec.to_builtins(result.usage),
        "seconds": result.seconds,
        "recipe": result.recipe,
        "verdict": msgspec.to_builtins(result.verdict),
        "changes": msgspec.to_builtins(result.changes),
        "argument": msgspec.to_builtins(result.argument),
    }
    return msgspec.json.encode(fields).decode()


class TerminalApprover:
    """Asks the person at the terminal about a call."""

    def __init__(self, console: Console, view: AgentView) -> None:
        self._console = console
        self._view = view
        self._lines: Lines | None = None

    async def __call__(self, request: PermissionRequest) -> PermissionAnswer:
        self._lines = self._lines or Lines()
        rule = ask_words(self._console, self._view, request)
        return answer_of(await self._lines.next(), rule)


def ask_words(console: Console, view: AgentView, request: PermissionRequest) -> str:
    """Show the question; returns the rule that "always" stands for."""
    from perilune.agent.permissions import suggested_rule
    from perilune.cli.agent_view import plain

    view.wait()
    rule = suggested_rule(request.name, request.arguments)
    console.print(plain(f"{request.name} wants to do this:", "bold yellow"))
    console.print(plain(request.subject))
    console.print(plain(f"[y]es, [n]o, [a]lways ({rule})? ", "yellow"), end="")
    return rule


def answer_of(line: str | None, rule: str) -> PermissionAnswer:
    """The end of stdin is a no."""
    from perilune.agent.permissions import PermissionAnswer

    word = (line or "").strip().lower()
    if word in ("a", "always"):
        return PermissionAnswer(allow=True, always=rule)
    return PermissionAnswer(allow=word in ("y", "yes"))
