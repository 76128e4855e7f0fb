"""`Agent`: a model, tools and rules; `run` gives it a task.

    from perilune import Agent
    result = Agent(model=EndpointModel("http://localhost:8000"), tools=["files"]).run("...")
    print(result.answer)

`Agent` holds no conversation; a `Session` of it does (see `session.py`).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from perilune.agent.budgets import Budget
from perilune.agent.checks.check import Check, Verifier
from perilune.agent.checks.usual import default_verifiers
from perilune.agent.context.strategies import chain
from perilune.agent.journal.journal import Journal
from perilune.agent.journal.memory_journal import MemoryJournal
from perilune.agent.loop.result import RunResult
from perilune.agent.loop.run import Listener
from perilune.agent.loop.session import Session
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.permissions.permissions import Approver, Permissions
from perilune.agent.recipes.recipe import Recipe
from perilune.agent.tool import Tool
from perilune.errors import UsageError
from perilune.events import Content
from perilune.home import data_home

__all__ = [
    "Agent",
    "RunResult",
    "Session",
    "default_system_prompt",
    "resolve_model",
    "resolve_tools",
]


def default_system_prompt() -> str:
    return (Path(__file__).parent / "system.md").read_text("utf-8").strip()


class Agent:
    """A model with tools, and the rules under which it works.

    model: a `ChatModel`, an endpoint URL, or a checkpoint folder. tools: `Tool` objects, or names
    of built-in tools and tool sets. recipe: gives the defaults of tools, checks and budget, and its
    prompt follows the system prompt. workspace: the folder that tools work in (default: the present
    one). system_prompt: replaces the default. context: "keep", "hide", "summarise" or "discard".
    snapshot: keep the workspace as it was, for undo. on_record: is told every event of every run.
    settings: any JSON, kept in the journal for whoever resumes the run. parent_run: the run that
    this one works for. open_journal: opens the journal of a run's folder.
    """

    def __init__(
        self,
        model: ChatModel | str | Path,
        tools: Sequence[Tool | str] = (),
        *,
        recipe: Recipe | None = None,
        system_prompt: str | None = None,
        workspace: str | Path | None = None,
        budget: Budget | None = None,
        sampling: Sampling | None = None,
        permissions: Permissions | None = None,
        approver: Approver | None = None,
        verifiers: Sequence[Verifier | Check] | None = None,
        context: Literal["keep", "hide", "summarise", "discard"] | str = "hide",
        context_window: int | None = None,
        retry: RetryPolicy | None = None,
        sandbox: Any = None,
        snapshot: bool = True,
        home: str | Path | None = None,
        on_record: Listener | None = None,
        settings: dict[str, Any] | None = None,
        name: str = "main",
        parent_run: str | None = None,
        open_journal: Callable[[Path], MemoryJournal] = Journal,
    ) -> None:
        self.model = resolve_model(model)
        self.recipe = recipe
        if recipe is not None:
            tools = tools or recipe.tools
            system_prompt = recipe.prompt_after(system_prompt or default_system_prompt())
            budget = budget or recipe.budget
            verifiers = recipe.verifiers() if verifiers is None else verifiers
        self.tools = resolve_tools(tools)
        self.system_prompt = default_system_prompt() if system_prompt is None else system_prompt
        self.workspace = Path(workspace or Path.cwd()).resolve()
        if not self.workspace.is_dir():
            raise UsageError(f"the workspace {self.workspace} is not a folder")
        self.budget = budget or Budget()
        self.sampling = sampling or Sampling()
        self.permissions = permissions or Permissions()
        self.approver = approver
        self.verifiers = default_verifiers() if verifiers is None else verifiers
        self.context = context
        self.context_window = context_window
        self.retry = retry or RetryPolicy()
        self.sandbox = sandbox
        self.snapshot = snapshot
        self.home = Path(home) if home is not None else data_home()
        self.on_record = on_record
        self.settings = settings or {}
        self.name = name
        self.parent_run = parent_run
        self.open_journal = open_journal
        chain(context)  # an unknown name is refused now, not at the first compaction

    def run(self, task: Content | None = None, *, resume: str | None = None) -> RunResult:
        """Work on a task and return how it ended. `arun` is the same for async code."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run_and_close(task, resume))
        raise UsageError(
            "Agent.run was called inside a running event loop",
            remedy="Use `await agent.arun(...)`.",
        )

    async def arun(self, task: Content | None = None, *, resume: str | None = None) -> RunResult:
        """Work on a task; with `resume`, go on with an earlier run (and a new task, if given).

        Errors that end a run are not exceptions here: they are the result's `reason`.
        """
        async with self.session(resume=resume) as session:
            return await session.run(task)

    def copy_with(self, **changed: Any) -> Self:
        """This agent with some attributes changed."""
        other = copy.copy(self)
        for name, value in changed.items():
            if not hasattr(other, name):
                raise UsageError(f"an agent has no {name!r}")
            setattr(other, name, value)
        return other

    @property
    def recipe_name(self) -> str:
        return self.recipe.name if self.recipe is not None else ""

    @property
    def works_on_copy(self) -> bool:
        """Whether runs change a copy of the workspace, which is applied when they succeed."""
        return self.recipe is not None and self.recipe.works_on_copy

    def session(self, *, resume: str | None = None, folder: Path | None = None) -> Session:
        """An open run, for `async with`; `resume` names an earlier one to go on with.

        `folder` instead is the run's own folder: the run in it goes on, or a new one begins there.
        """
        return Session(self, resume, folder)

    async def _run_and_close(self, task: Content | None, resume: str | None) -> RunResult:
        # A client of this event loop must not outlive it.
        try:
            return await self.arun(task, resume=resume)
        finally:
            await self.model.close()


def resolve_model(model: ChatModel | str | Path) -> ChatModel:
    """A `ChatModel` from an endpoint URL or a checkpoint folder."""
    if isinstance(model, ChatModel):
        return model
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        from perilune.agent.models.endpoint import EndpointModel

        return EndpointModel(model)
    from perilune.agent.models.engine import EngineModel

    return EngineModel.from_pretrained(Path(model))


def resolve_tools(tools: Sequence[Tool | str]) -> list[Tool]:
    """Tools as they are, and the built-in ones by name."""
    resolved: list[Tool] = []
    for each in tools:
        if isinstance(each, str):
            from perilune.agent.tools import load_tools

            resolved += load_tools([each])
        else:
            resolved.append(each)
    return resolved
