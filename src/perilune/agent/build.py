"""The one place where an agent is made of settings: for the command line, the servers and tests."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perilune.agent.agent import Agent, resolve_model
from perilune.agent.budgets import Budget
from perilune.agent.effort import budget_for, effort_named
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.agent.permissions.permissions import Approver, Permissions
from perilune.agent.presets import load_preset, preset_name
from perilune.agent.recipes.choose import Choice, choose
from perilune.agent.recipes.recipe import NONE, Recipe, load_recipe
from perilune.agent.settings import CONTEXT, SMALLEST_WINDOW, TOOLS, AgentSettings
from perilune.errors import UsageError
from perilune.events import RunStarted
from perilune.home import find_run

if TYPE_CHECKING:
    from perilune.agent.tool import Tool
    from perilune.sandbox import Sandbox


def build_agent(
    settings: AgentSettings,
    *,
    workspace: Path | None = None,
    system_prompt: Path | None = None,
    resume: str | None = None,
    approver: Approver | None = None,
    ask_by_default: bool = False,
    task: str | None = None,
) -> Agent:
    """The agent that the settings describe; with a `task`, a recipe is chosen when none is named.

    `system_prompt` is a file. `resume`: the settings go over those that this run was started with.
    What the agent was made of in the end is `AgentSettings().over(agent.settings)`. Raises
    `UsageError` for what makes no sense.
    """
    if resume is not None:
        settings = settings.over(kept_settings(resume))
    permissions = Permissions(
        allow=settings.allow,
        ask=settings.ask,
        deny=settings.deny,
        default="ask" if ask_by_default else "allow",
    )
    if preset := preset_name(settings):
        return _preset_agent(preset, settings, permissions, workspace, system_prompt, approver)
    choice = recipe_for(settings, workspace, task if system_prompt is None else None)
    settings = settings.but(recipe=choice.name, recipe_why=choice.why)
    recipe = choice.recipe
    tools: list[Tool | str] = [*tool_names(settings, recipe), *mcp_tools(settings)]
    effort = effort_named(settings.effort).model if settings.effort else None
    return Agent(
        build_model(settings),
        tools,
        recipe=recipe,
        system_prompt=system_prompt.read_text("utf-8") if system_prompt else None,
        workspace=workspace,
        budget=budget_of(settings, recipe),
        sampling=Sampling(effort=effort),
        permissions=permissions,
        approver=approver,
        context=settings.context_strategy or CONTEXT,
        context_window=settings.context_window,
        sandbox=_sandbox(settings.sandbox),
        snapshot=settings.snapshot,
        settings=settings.kept,
    )


def _preset_agent(
    name: str,
    settings: AgentSettings,
    permissions: Permissions,
    workspace: Path | None,
    system_prompt: Path | None,
    approver: Approver | None,
) -> Agent:
    """A preset with the prompt and the tools that it was trained with, and no others."""
    for flag, value in (
        ("--tools", settings.tools),
        ("--mcp", settings.mcp),
        ("--system-prompt", system_prompt),
        ("--recipe", None if settings.recipe in (None, NONE) else settings.recipe),
        ("--effort", settings.effort),
    ):
        if value:
            raise UsageError(
                f"{name} knows its own two tools and nothing else, so {flag} is not for it",
                remedy="Name a larger model: --model DIR or --endpoint URL.",
            )
    settings = settings.but(model=name, recipe=NONE)
    return load_preset(name).make_agent(
        build_model(settings),
        workspace=workspace,
        budget=budget_of(settings, None),
        permissions=permissions,
        approver=approver,
        sandbox=_sandbox(settings.sandbox),
        settings=settings.kept,
    )


def build_model(settings: AgentSettings) -> ChatModel:
    """The chat model that `endpoint` and `model` name, else the embedded one."""
    if settings.endpoint is not None:
        from perilune.agent.models.endpoint import EndpointModel

        return EndpointModel(
            settings.endpoint,
            settings.model or "",
            api_key_env=settings.api_key_env,
            context_window=settings.context_window,
        )
    if preset := preset_name(settings):
        folder = load_preset(preset).folder()
        if not (folder / "config.json").is_file():
            raise UsageError(
                "no model was given, and this installation has none inside",
                remedy="Name a server with --endpoint URL (and --model NAME), e.g. --endpoint "
                "http://localhost:8000/v1, or a checkpoint folder with --model DIR.",
            )
        return resolve_model(folder)
    assert settings.model is not None
    if not Path(settings.model).is_dir():
        raise UsageError(
            f"{settings.model!r} is not a checkpoint folder",
            remedy="Give a folder, or --endpoint URL for a model behind a server.",
        )
    return resolve_model(Path(settings.model))


def recipe_for(settings: AgentSettings, workspace: Path | None, task: str | None) -> Choice:
    """The recipe that is named, else the one that the task's words choose."""
    if settings.recipe == NONE:
        return Choice(None, settings.recipe_why or "--recipe none")
    if settings.recipe is not None:
        return Choice(load_recipe(settings.recipe), settings.recipe_why or "--recipe")
    if task is None:
        return Choice(None, "the flags say how to work")
    if settings.tools is not None:
        return Choice(None, "--tools says what to work with")
    return choose(task, (workspace or Path.cwd()).resolve())


def budget_of(settings: AgentSettings, recipe: Recipe | None) -> Budget:
    """The recipe's budget, its share by effort, and what the settings say over both."""
    budget = recipe.budget if recipe else Budget()
    if settings.effort:
        budget = budget_for(effort_named(settings.effort), budget)
    given: dict[str, Any] = {
        "steps": settings.max_steps,
        "tokens": settings.max_tokens,
        "thinking_tokens": settings.thinking_tokens,
        "seconds": settings.max_seconds,
    }
    return replace(budget, **{name: value for name, value in given.items() if value is not None})


def tool_names(settings: AgentSettings, recipe: Recipe | None = None) -> list[str]:
    """Names of tools and tool sets: the settings' own, the recipe's, or the default."""
    if settings.tools is None and recipe is not None and recipe.tools:
        return list(recipe.tools)
    names = [each.strip() for each in (settings.tools or TOOLS).split(",") if each.strip()]
    return [] if names == ["none"] else names


def mcp_tools(settings: AgentSettings) -> list[Tool]:
    """The tools of the MCP servers that are named; connected until this process ends."""
    if not settings.mcp:
        return []
    import atexit

    from perilune.agent.tools.mcp import McpServer, connect_mcp

    servers = []
    for spec in settings.mcp:
        name, equals, where = spec.partition("=")
        if not (name and equals and where):
            raise UsageError(f"--mcp {spec!r} is not NAME=COMMAND or NAME=URL")
        if where.startswith(("http://", "https://")):
            servers.append(McpServer(name, url=where))
        else:
            servers.append(McpServer(name, command=shlex.split(where)))
    connected = connect_mcp(servers, context_window=settings.context_window or SMALLEST_WINDOW)
    atexit.register(connected.close)
    return connected.tools


def kept_settings(resume: str) -> dict[str, Any]:
    """The settings of an earlier run, from its journal."""
    for record in read_journal(find_run(resume)).records[:1]:
        if isinstance(record.event, RunStarted):
            return record.event.settings
    return {}


def _sandbox(kind: str | None) -> Sandbox | None:
    """None: the tools open the strong one when they need it."""
    if kind is None:
        return None
    if kind not in ("bubblewrap", "landlock"):
        raise UsageError(f"--sandbox must be bubblewrap or landlock, not {kind!r}")
    from perilune.sandbox import open_sandbox

    return open_sandbox(kind)  # type: ignore[arg-type]  # narrowed above
