"""`perilune run --swarm`: the orchestrator and its sub-agents, shown while they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from perilune.cli.signals import Ended, ended_in_order
from perilune.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from perilune.agent.agent import Agent
    from perilune.cli.agent_view import AgentView
    from perilune.cli.run import Opened
    from perilune.events import Record
    from perilune.swarm.limits import SwarmLimits
    from perilune.swarm.result import SwarmResult
    from perilune.swarm.swarm import Swarm


def parse_limits(text: str | None, kept: dict[str, Any]) -> SwarmLimits:
    """`main_steps=100,parallel=8` over the limits that the run was started with; `none` lifts one.

    Raises `UsageError` for a name that is no limit, or a value that is none.
    """
    from perilune.swarm.limits import SwarmLimits

    fields = dict(kept)
    for part in filter(None, (each.strip() for each in (text or "").split(","))):
        name, equals, value = part.partition("=")
        if not equals or name not in SwarmLimits.__struct_fields__:
            raise UsageError(
                f"--swarm-limits: {part!r} is no limit",
                remedy=f"NAME=VALUE, of {', '.join(SwarmLimits.__struct_fields__)}.",
            )
        fields[name] = None if value == "none" else value
    try:
        return msgspec.convert(fields, SwarmLimits, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--swarm-limits: {error}") from None


def kept_swarm(resume: str | None) -> dict[str, Any] | None:
    """The swarm's settings of an earlier run; None when it was no swarm."""
    if resume is None:
        return None
    from perilune.cli.agent_options import kept_options

    kept = kept_options(resume).get("swarm")
    return kept if isinstance(kept, dict) else None


def build_swarm(
    agent: Agent,
    limits_text: str | None,
    kept: dict[str, Any] | None,
    *,
    max_steps: int | None,
    database: str | None = None,
) -> Swarm:
    """The swarm that the flags describe: what bounds the agent bounds the whole.

    With a `database`, its sub-agents work where `perilune worker` does. The embedded model
    orchestrates with a prompt and limits of its own.
    """
    from dataclasses import replace

    from perilune.nano.agent import SYSTEM_PROMPT
    from perilune.nano.swarm import LIMITS, swarm_of
    from perilune.swarm.backend import LocalBackend
    from perilune.swarm.swarm import MakeBackend, Swarm

    make_backend: MakeBackend = LocalBackend
    if database is not None:
        from perilune.swarm.cluster.backend import cluster_backend

        make_backend = cluster_backend(database)
    kept = kept or {}
    nano = agent.system_prompt == SYSTEM_PROMPT
    usual = msgspec.to_builtins(LIMITS) if nano else {}
    limits = parse_limits(limits_text, dict(kept.get("limits") or usual))
    budget = agent.budget
    limits = msgspec.structs.replace(
        limits,
        main_steps=max_steps if max_steps is not None else limits.main_steps,
        tokens=limits.tokens if limits.tokens is not None else budget.tokens,
        seconds=limits.seconds if limits.seconds is not None else budget.seconds,
    )
    unbounded = replace(budget, steps=None, tokens=None, seconds=None)
    agent = agent.copy_with(budget=unbounded)
    if nano:
        return swarm_of(agent, limits=limits, make_backend=make_backend)
    return Swarm(
        agent,
        limits=limits,
        workspaces=kept.get("workspaces") or "copy",
        make_backend=make_backend,
    )


async def work(
    swarm: Swarm,
    task: str | None,
    resume: str | None,
    listen: Callable[[Record], None],
    opened: Opened,
) -> tuple[SwarmResult, Ended]:
    """Run, with Ctrl-C as an orderly end of all; a second one is a hard one."""
    swarm.agent.on_record = listen
    async with swarm.session(resume=resume) as session:
        windows = [each.context_window for each in swarm.models if each.context_window]
        task = opened.task(task, session.id, session.folder, min(windows, default=None))
        with ended_in_order(session.interrupt) as ended:
            try:
                result = await session.run(task)
            finally:
                for model in swarm.models:
                    await model.close()
        return result, ended


class SwarmView:
    """Draws the records of all agents: the orchestrator's as usual, those of sub-agents as counts.

    It folds the same stream that the journal keeps.
    """

    def __init__(self, console: Console, main: AgentView, *, quiet: bool) -> None:
        from perilune.swarm.state import SwarmState

        self._console = console
        self._main = main
        self._quiet = quiet
        self._state = SwarmState()

    def __call__(self, record: Record) -> None:
        from perilune.events import AssignmentFinished, AssignmentProgress, ToolFinished

        if record.agent != "main":
            return
        self._state.apply(record)
        match record.event:
            case AssignmentProgress():
                self._main.status(self._counts())
            case AssignmentFinished() as ended:
                self._say_end(ended)
            case ToolFinished(name="assign_task"):
                self._main.status(self._counts())
            case _:
                self._main(record)

    def end(self, result: SwarmResult) -> None:
        """What the whole took, and what is missing."""
        from perilune.cli.agent_view import plain
        from perilune.swarm.tree import summary

        self._main.wait()
        if not self._quiet:
            self._console.print(plain(f"· {summary(self._state)}", "dim"), highlight=False)
        for each in result.missing:
            self._console.print(plain(f"! missing: {each}", "yellow"), highlight=False)

    def _seconds(self, ended: Any) -> float:
        known = self._state.assignments.get(ended.call_id)
        return known.seconds if known is not None else 0.0

    def _counts(self) -> str:
        state = self._state
        running, whole = len(state.running()), len(state.assignments)
        return (
            f"{whole - running} of {whole} sub-agents done, {state.critical_steps} critical steps "
            f"of {state.serial_steps}, {state.tool_calls} calls, {state.usage.total_tokens} tokens"
        )

    def _say_end(self, ended: Any) -> None:
        from perilune.cli.agent_view import plain

        if self._quiet:
            return
        self._main.wait()
        why = f": {ended.detail}" if ended.detail else ""
        self._console.print(
            plain(
                f"· {ended.folder} {ended.status}{why} ({ended.steps} steps, {ended.tool_calls} "
                f"calls, {self._seconds(ended):.1f} s)",
                "dim" if ended.status == "done" else "yellow",
            ),
            highlight=False,
        )
