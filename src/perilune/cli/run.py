"""`perilune run`: one task, worked on until it is answered; the answer alone goes to stdout."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perilune.cli import agent_options as flags
from perilune.cli import standard_input, swarm_run
from perilune.cli.cluster_options import DatabaseUrl, database_url
from perilune.cli.lines import Lines
from perilune.cli.signals import Ended, ended_in_order
from perilune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from rich.console import Console

    from perilune.agent.agent import Agent, RunResult
    from perilune.agent.permissions.permissions import PermissionAnswer, PermissionRequest
    from perilune.cli.agent_view import AgentView
    from perilune.events import Record
    from perilune.swarm.result import SwarmResult

app = typer.Typer(add_completion=False)

EXIT_FAILED = 1
NOTHING_TO_GO_ON_WITH = ("unverified", "conflict")  # ends that a resume would only repeat


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
    no_stdin: Annotated[
        bool, typer.Option("--no-stdin", help="Do not add what is piped in to the task.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Problems only on stderr.")] = False,
) -> None:
    """Work on a task with tools until it is answered. What is piped in becomes part of the task.

    Exit codes: 0 answered, 1 ended without a (verified) answer, 2 wrong usage, 130 interrupted,
    143 terminated, 129 when its terminal was closed.
    """
    piped: standard_input.Piped | None = None
    if task == "-":
        task = standard_input.read_all()
    elif task is not None and resume is None and not no_stdin:
        piped = standard_input.piped(say)
        if piped is not None:
            say(piped.said())
    elif resume is not None and not no_stdin and standard_input.is_given():
        say("standard input is not read: a resumed run has its task")
    if task is not None and not task.strip():
        raise UsageError("the task is empty")
    if task is None and resume is None:
        raise UsageError(
            "there is no task",
            remedy='Write perilune run "TASK", perilune run - to read it from stdin, or --resume '
            "RUN.",
        )
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

    from perilune.cli.agent_view import AgentView
    from perilune.cli.console import SafeConsole

    console = SafeConsole(stderr=True)
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
    ended = Ended()
    opened = Opened(console, view, piped)
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
        with opened:
            result, ended = asyncio.run(swarm_run.work(whole, task, resume, listen, opened))
        together.end(result)
    else:
        agent.on_record = listen
        with opened:
            result, ended = asyncio.run(work(agent, task, resume, effort, opened))
    if output_format is OutputFormat.TEXT:
        if result.answer:
            print(result.answer)
    elif output_format is OutputFormat.JSON:
        print(result_json(result))
    if result.ok:
        return
    if result.reason not in NOTHING_TO_GO_ON_WITH:
        opened.say_how_to_go_on()
    raise typer.Exit(ended.exit_code if result.reason == "interrupted" else EXIT_FAILED)


def say(line: str) -> None:
    print(f"perilune: {line}", file=sys.stderr, flush=True)


class Opened:
    """A run while it is at work: what was piped in joins its task, and whatever ends it, the
    spinner goes and the way to go on is said."""

    def __init__(
        self, console: Console, view: AgentView, piped: standard_input.Piped | None
    ) -> None:
        self._console = console
        self._view = view
        self._piped = piped
        self._run = ""

    def task(
        self, task: str | None, run: str, folder: Path, window: int | None = None
    ) -> str | None:
        """The task as the model gets it, now that the run has a folder.

        `window`: tokens of the model's context. A character is a token at worst, and a quarter of
        the window is what a task may bring.
        """
        self._run = run
        if task is None or self._piped is None:
            return task
        shown = standard_input.SHOWN_CHARACTERS
        most = shown if window is None else min(shown, window // 4)
        if most < shown and len(self._piped.text) > most:
            self._console.print(
                f"· of standard input, {most:,} characters (head and tail) go into the task: the "
                f"model's window is {window:,} tokens",
                style="dim",
            )
        return self._piped.added_to(task, folder / "outputs", most=most)

    def say_how_to_go_on(self) -> None:
        self._console.print(
            f"· go on with: perilune run --resume {self._run}", style="dim", soft_wrap=True
        )

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._view.wait()
        if error is not None and self._run:
            self.say_how_to_go_on()


async def work(
    agent: Agent, task: str | None, resume: str | None, effort: str | None, opened: Opened
) -> tuple[RunResult, Ended]:
    """Run, with Ctrl-C as an orderly end; a second one is a hard one."""
    from perilune.agent.effort import effort_named
    from perilune.agent.heavy import run_heavy

    trajectories = effort_named(effort).trajectories if effort else 1
    async with agent.session(resume=resume) as session:
        window = agent.context_window or agent.model.context_window
        task = opened.task(task, session.id, session.folder, window)
        with ended_in_order(session.interrupt) as ended:
            try:
                if trajectories > 1 and task is not None and resume is None:
                    result = await run_heavy(session, task, trajectories=trajectories)
                else:
                    result = await session.run(task)
            finally:
                await agent.model.close()
        return result, ended


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
    from perilune.agent.permissions.permissions import suggested_rule
    from perilune.cli.agent_view import plain

    view.wait()
    rule = suggested_rule(request.name, request.arguments)
    console.print(plain(f"{request.name} wants to do this:", "bold yellow"))
    console.print(plain(request.subject))
    console.print(plain(f"[y]es, [n]o, [a]lways ({rule})? ", "yellow"), end="")
    return rule


def answer_of(line: str | None, rule: str) -> PermissionAnswer:
    """The end of stdin is a no."""
    from perilune.agent.permissions.permissions import PermissionAnswer

    word = (line or "").strip().lower()
    if word in ("a", "always"):
        return PermissionAnswer(allow=True, always=rule)
    return PermissionAnswer(allow=word in ("y", "yes"))
