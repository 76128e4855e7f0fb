"""`perilune run --swarm`: the orchestrator and its sub-agents, shown while they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perilune.cli.signals import Ended, ended_in_order

if TYPE_CHECKING:
    from rich.console import Console

    from perilune.cli.agent_view import AgentView
    from perilune.cli.opened import Opened
    from perilune.events import Record
    from perilune.swarm.result import SwarmResult
    from perilune.swarm.swarm import Swarm


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
        whole = opened.task(task, session.id, session.folder, min(windows, default=None))
        with ended_in_order(session.interrupt) as ended:
            try:
                result = await session.run(whole)
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
