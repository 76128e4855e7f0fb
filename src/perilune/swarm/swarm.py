"""`Swarm`: an agent that may split its task among sub-agents.

    from perilune import Agent
    from perilune.swarm import Swarm
    result = Swarm(Agent(EndpointModel("http://localhost:8000"), ["web"])).run("...")
    print(result.answer, result.critical_steps, "of", result.serial_steps)

The orchestrator is an agent like any other, with tools that make sub-agents and give them work.
Sub-agents are agents with a context, journal and workspace of their own; their model, tools,
permissions and budgets are fixed here, and nothing that the orchestrator says widens them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from perilune.agent.agent import Agent, RunResult, Session
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import ChatModel
from perilune.agent.models.limiter import limiter_for
from perilune.agent.tool import Tool
from perilune.agent.tool_registry import ToolRegistry
from perilune.errors import UsageError
from perilune.events import Content
from perilune.home import find_run
from perilune.swarm.backend import Backend, LocalBackend
from perilune.swarm.compact import compact_swarm_tools
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.meter import Meter, MeteredTool, shared
from perilune.swarm.result import SwarmResult, result_of
from perilune.swarm.state import SwarmState
from perilune.swarm.sub_agent import sub_agent_prompt
from perilune.swarm.team import Team
from perilune.swarm.worker_agent import bounded
from perilune.swarm.workspaces import WorkspaceKind

MakeBackend = Callable[[Agent, SwarmLimits, WorkspaceKind], Backend]


class Swarm:
    """An orchestrator and the sub-agents that it may make.

    agent: the orchestrator; its system prompt gets the swarm's rules added. worker: what each
    sub-agent is: model, tools, permissions, sampling and budget (default: those of `agent`, with a
    prompt for sub-agents). limits: of the whole. workspaces: "copy" gives each sub-agent a copy of
    the orchestrator's workspace, "empty" an empty folder. helpers: also offer `collect_reports` and
    `merge_tables`. compact: for a small model, which knows the prompts that it was trained with:
    both agents' prompts are taken as they are (no rules added; what the orchestrator says in
    `create_subagent` begins the sub-agent's first message), tools are declared in a few words after
    the agent's own, and a report is shown without its sources, which are kept all the same.
    make_backend: where sub-agents work; default: in this process.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        worker: Agent | None = None,
        limits: SwarmLimits | None = None,
        workspaces: WorkspaceKind = "copy",
        helpers: bool = True,
        compact: bool = False,
        make_backend: MakeBackend = LocalBackend,
    ) -> None:
        self.agent = agent
        self.worker = worker or agent.copy_with(system_prompt=sub_agent_prompt(), recipe=None)
        self.limits = limits or SwarmLimits()
        self.workspaces = workspaces
        self.helpers = helpers
        self.compact = compact
        self.make_backend = make_backend

    def run(self, task: Content | None = None, *, resume: str | None = None) -> SwarmResult:
        """Work on a task and return how it ended. `arun` is the same for async code."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run_and_close(task, resume))
        raise UsageError(
            "Swarm.run was called inside a running event loop",
            remedy="Use `await swarm.arun(...)`.",
        )

    async def arun(self, task: Content | None = None, *, resume: str | None = None) -> SwarmResult:
        """Work on a task; with `resume`, go on with an earlier run, sub-agents included."""
        async with self.session(resume=resume) as session:
            return await session.run(task)

    def session(self, *, resume: str | None = None) -> SwarmSession:
        """An open run, for `async with`; `resume` names an earlier one to go on with."""
        return SwarmSession(self, resume)

    def declarations(self) -> list[dict[str, Any]]:
        """The tools as the orchestrator's model is told of them."""
        return ToolRegistry(SwarmSession(self, None).orchestrator.tools).declarations()

    async def _run_and_close(self, task: Content | None, resume: str | None) -> SwarmResult:
        try:
            return await self.arun(task, resume=resume)
        finally:
            for model in self.models:
                await model.close()

    @property
    def models(self) -> list[ChatModel]:
        """The models of orchestrator and sub-agents, each once."""
        both = [self.agent.model, self.worker.model]
        return both[:1] if both[0] is both[1] else both


class SwarmSession:
    """One open swarm run. Steer or stop it, or one of its sub-agents, while it works."""

    def __init__(self, swarm: Swarm, resume: str | None) -> None:
        limits = swarm.limits
        self._swarm = swarm
        self._resume = resume
        self._meter = Meter(limits)
        self._worker = _worker(swarm, self._meter)
        self._backend = swarm.make_backend(self._worker, limits, swarm.workspaces)
        self._team = Team(
            self._backend,
            limits,
            self._meter,
            swarm.agent.on_record,
            helpers=swarm.helpers,
            compact=swarm.compact,
        )
        self.orchestrator = _orchestrator(swarm, self._team, self._meter)
        self._opened: Session | None = None

    async def __aenter__(self) -> Self:
        agent = self._swarm.agent
        for model in self._swarm.models:
            await model.prepare()
            limiter_for(model.endpoint).allow(self._swarm.limits.parallel + 1)
        known = []
        if self._resume is not None:
            known = read_journal(find_run(self._resume, agent.home)).records
        session = self.orchestrator.session(resume=self._resume)
        self._opened = await session.__aenter__()
        self._worker.parent_run = session.id
        # What opening wrote (that the run was resumed) was heard already.
        self._team.open(session.folder, known)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.__aexit__(kind, error, traceback)
        await self._backend.close()
        self._opened = None

    @property
    def id(self) -> str:
        return self._session.id

    @property
    def folder(self) -> Path:
        """Of the orchestrator's run."""
        return self._session.folder

    @property
    def state(self) -> SwarmState:
        """Agents, assignments, and steps as counted until now."""
        return self._team.state

    async def run(self, task: Content | None = None) -> SwarmResult:
        """Work on a task until it ends. Without one, go on with the task of a resumed run."""
        ended: RunResult = await self._session.run(task)
        return result_of(
            self.state,
            answer=ended.answer,
            reason=ended.reason,
            detail=ended.detail,
            seconds=ended.seconds,
        )

    async def steer(self, text: str, agent: str | None = None) -> None:
        """Say something to the orchestrator, or to a sub-agent that is at work.

        Raises `UsageError` when no sub-agent of that name is at work.
        """
        if agent is None:
            self._session.steer(text)
        else:
            await self._team.steer(agent, text)

    async def stop(self, agent: str, reason: str = "stopped by the user") -> None:
        """End a sub-agent; the orchestrator is told, with what it had."""
        await self._team.stop(agent, reason)

    def interrupt(self, reason: str = "interrupted by the user") -> None:
        """Stop all at once. The run can be resumed."""
        self._session.interrupt(reason)

    @property
    def _session(self) -> Session:
        if self._opened is None:
            raise UsageError("the session is not open", remedy="Use `async with swarm.session():`.")
        return self._opened


def _worker(swarm: Swarm, meter: Meter) -> Agent:
    """What sub-agents are made of: their tools count for the whole, and so do their tokens."""
    worker = bounded(swarm.worker, swarm.limits, meter)
    return worker.copy_with(tools=_metered(worker.tools, meter, swarm.limits))


def _orchestrator(swarm: Swarm, team: Team, meter: Meter) -> Agent:
    agent, limits = swarm.agent, swarm.limits
    rules = (Path(__file__).parent / "orchestrator.md").read_text("utf-8").strip()
    prompt = f"{agent.system_prompt}\n\n{rules}".strip()
    own = _metered(agent.tools, meter, limits)
    return agent.copy_with(
        system_prompt=agent.system_prompt if swarm.compact else prompt,
        tools=[*own, *compact_swarm_tools(team)]
        if swarm.compact
        else [*_swarm_tools(team, swarm.helpers), *own],
        budget=shared(
            agent.budget,
            meter,
            steps=limits.main_steps,
            seconds=limits.seconds if limits.seconds is not None else agent.budget.seconds,
        ),
        on_record=team.observe,
        settings={**agent.settings, "swarm": swarm_settings(swarm)},
    )


def swarm_settings(swarm: Swarm) -> dict[str, object]:
    """What a resume needs to build the same swarm again, as JSON."""
    return {"limits": msgspec.to_builtins(swarm.limits), "workspaces": swarm.workspaces}


def _swarm_tools(team: Team, helpers: bool) -> list[Tool]:
    from perilune.swarm.tools.assign_task import AssignTask
    from perilune.swarm.tools.collect_reports import CollectReports
    from perilune.swarm.tools.create_subagent import CreateSubagent
    from perilune.swarm.tools.merge_tables import MergeTables

    tools: list[Tool] = [CreateSubagent(team), AssignTask(team)]
    return [*tools, CollectReports(team), MergeTables(team)] if helpers else tools


def _metered(tools: list[Tool], meter: Meter, limits: SwarmLimits) -> list[Tool]:
    return [MeteredTool(each, meter, limits.tool_calls) for each in tools]
