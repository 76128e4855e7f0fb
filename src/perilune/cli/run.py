"""`perilune run`: one task, worked on until it is answered; the answer alone goes to stdout."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from perilune.cli import standard_input, swarm_run
from perilune.cli.agent_flags import (
    NO_FLAGS,
    NO_RULES,
    NO_SWARM,
    AgentFlags,
    RuleFlags,
    SwarmFlags,
    settings_of,
)
from perilune.cli.cluster_options import database_url
from perilune.cli.lines import Lines
from perilune.cli.opened import Opened
from perilune.cli.option_groups import with_option_groups
from perilune.cli.signals import Ended, ended_in_order
from perilune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from perilune.agent.agent import Agent, RunResult
    from perilune.agent.permissions.permissions import PermissionAnswer, PermissionRequest
    from perilune.agent.settings import AgentSettings
    from perilune.cli.agent_view import AgentView
    from perilune.events import Record
    from perilune.swarm.result import SwarmResult
    from perilune.swarm.swarm import Swarm

app = typer.Typer(add_completion=False)

EXIT_FAILED = 1
NOTHING_TO_GO_ON_WITH = ("unverified", "conflict")  # ends that a resume would only repeat


class OutputFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    STREAM_JSON = "stream-json"


@app.command()
@with_option_groups
def run(
    task: Annotated[str | None, typer.Argument(help="The task; '-' reads it from stdin.")] = None,
    who: AgentFlags = NO_FLAGS,
    output_format: Annotated[
        OutputFormat,
        typer.Option("--output-format", help="stdout: the answer, one JSON object, or all events."),
    ] = OutputFormat.TEXT,
    rules: RuleFlags = NO_RULES,
    team: SwarmFlags = NO_SWARM,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", help="A picture for the model: PNG, JPEG, WebP or GIF. Repeatable."
        ),
    ] = None,
    no_stdin: Annotated[
        bool, typer.Option("--no-stdin", help="Do not add what is piped in to the task.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Problems only on stderr.")] = False,
) -> None:
    """Work on a task with tools until it is answered. What is piped in becomes part of the task.

    Exit codes: 0 answered, 1 ended without a (verified) answer, 2 wrong usage, 130 interrupted,
    143 terminated, 129 when its terminal was closed.
    """
    resume = who.resume
    task, piped = task_and_piped(task, resume, no_stdin=no_stdin)

    from perilune.agent.build import build_agent
    from perilune.cli.agent_view import AgentView
    from perilune.cli.console import SafeConsole

    pictures = pictures_given(image, task)
    settings = settings_of(who, rules)
    agent = build_agent(
        settings,
        workspace=who.workspace,
        system_prompt=rules.system_prompt,
        resume=resume,
        task=None if resume else task,
    )
    console = SafeConsole(stderr=True)
    view = AgentView(console, quiet=quiet)
    show: Callable[[Record], None] = view
    if not quiet and (line := preset_line(settings, resume)):
        console.print(f"· {line}", style="dim")
    if sys.stdin.isatty():
        agent.approver = TerminalApprover(console, view)

    def listen(record: Record) -> None:
        if output_format is OutputFormat.STREAM_JSON:
            print_record(record)
        show(record)

    result: RunResult | SwarmResult
    ended = Ended()
    opened = Opened(console, view, piped, pictures)
    if whole := swarm_of(agent, team, resume, max_steps=rules.max_steps):
        together = swarm_run.SwarmView(console, view, quiet=quiet)
        show = together
        with opened:
            result, ended = asyncio.run(swarm_run.work(whole, task, resume, listen, opened))
        together.end(result)
    else:
        agent.on_record = listen
        with opened:
            result, ended = asyncio.run(work(agent, task, resume, rules.effort, opened))
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


def task_and_piped(
    task: str | None, resume: str | None, *, no_stdin: bool
) -> tuple[str | None, standard_input.Piped | None]:
    """The task, and what is piped in beside it. Raises `UsageError` where there is no task."""
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
    return task, piped


def pictures_given(files: list[Path] | None, task: str | None) -> list[dict[str, Any]]:
    """The pictures of `--image`. Raises `UsageError` for what is none, or has no task."""
    from perilune.cli.pictures import read_picture

    if files and task is None:
        raise UsageError(
            "--image goes with a task, and a resumed run has its own",
            remedy="Leave it out, or say what to do with the picture.",
        )
    return [read_picture(file) for file in files or ()]


def preset_line(settings: AgentSettings, resume: str | None) -> str:
    """What a person is told who did not choose a model; once, so not of a resumed run."""
    from perilune.agent.presets import load_preset, preset_name

    name = preset_name(settings)
    if name is None or (resume is not None and settings.model is None):
        return ""
    return load_preset(name).line


def swarm_of(
    agent: Agent, team: SwarmFlags, resume: str | None, *, max_steps: int | None
) -> Swarm | None:
    """The swarm that the flags ask for, or that the resumed run was; None: one agent."""
    if not (team.swarm or team.swarm_limits or resume):
        return None
    from perilune.swarm.build import build_swarm, kept_swarm

    kept = kept_swarm(resume)
    if not (team.swarm or team.swarm_limits or kept):
        return None
    make_backend = None
    if team.database:
        from perilune.swarm.cluster.backend import cluster_backend

        make_backend = cluster_backend(database_url(team.database))
    return build_swarm(
        agent, team.swarm_limits, kept, max_steps=max_steps, make_backend=make_backend
    )


def say(line: str) -> None:
    print(f"perilune: {line}", file=sys.stderr, flush=True)


async def work(
    agent: Agent, task: str | None, resume: str | None, effort: str | None, opened: Opened
) -> tuple[RunResult, Ended]:
    """Run, with Ctrl-C as an orderly end; a second one is a hard one."""
    from perilune.agent.effort import effort_named
    from perilune.agent.heavy import run_heavy

    trajectories = effort_named(effort).trajectories if effort else 1
    async with agent.session(resume=resume) as session:
        window = agent.context_window or agent.model.context_window
        whole = opened.task(task, session.id, session.folder, window)
        with ended_in_order(session.interrupt) as ended:
            try:
                if trajectories > 1 and whole is not None and resume is None:
                    result = await run_heavy(session, whole, trajectories=trajectories)
                else:
                    result = await session.run(whole)
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
