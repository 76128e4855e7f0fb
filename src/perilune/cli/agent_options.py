"""What `run` and `chat` share: the flags that describe an agent, and the agent made of them.

The choices are kept in the run's journal, so that `--resume` needs none of them again; a flag given
with it wins. Keys are never kept, only the name of the variable that holds one.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.agent.agent import Agent
    from perilune.agent.budgets import Budget
    from perilune.agent.permissions.permissions import Approver, Permissions
    from perilune.agent.recipes.choose import Choice
    from perilune.agent.recipes.recipe import Recipe as Recipe_
    from perilune.agent.tool import Tool

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="PERILUNE_MODEL",
        help="Name of a model at --endpoint, or a checkpoint folder. Default without an endpoint: "
        "nano, the small model inside the package.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint", envvar="PERILUNE_ENDPOINT", help="URL of an OpenAI-compatible server."
    ),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        envvar="PERILUNE_API_KEY_ENV",
        help="Name of the environment variable that holds the endpoint's key.",
    ),
]
Tools = Annotated[
    str | None,
    typer.Option(
        "--tools", help="Tools or tool sets, comma-separated; 'none' for none. Default: default."
    ),
]
Mcp = Annotated[
    list[str] | None,
    typer.Option(
        "--mcp",
        help="Tools of an MCP server: NAME=COMMAND or NAME=URL. Repeatable.",
        metavar="SPEC",
    ),
]
Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help="Folder that the tools work in. Default: this one.", file_okay=False
    ),
]
Effort = Annotated[
    str | None,
    typer.Option(
        "--effort",
        help="How hard to work: low, medium, high, or heavy (eight trajectories, merged).",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="How to go about the task: reason, search, code, write, one of your own, or none. "
        "Default: chosen from the task, unless --tools or --system-prompt say how.",
    ),
]
MaxSteps = Annotated[
    int | None, typer.Option("--max-steps", min=1, help="Turns of the model. Default: 300.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Prompt and completion tokens in all.")
]
ThinkingTokens = Annotated[
    int | None, typer.Option("--thinking-tokens", min=1, help="Thinking of one step.")
]
MaxSeconds = Annotated[
    float | None, typer.Option("--max-seconds", min=0.0, help="Wall time for the task.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", help="Allow calls that match, e.g. 'bash(git *)'. Repeatable."),
]
Ask = Annotated[
    list[str] | None, typer.Option("--ask", help="Ask before calls that match. Repeatable.")
]
Deny = Annotated[list[str] | None, typer.Option("--deny", help="Refuse calls that match.")]
ContextStrategy = Annotated[
    str | None,
    typer.Option(
        "--context-strategy",
        help="When the window fills: hide (old tool outputs), summarise, discard, or keep.",
    ),
]
ContextWindow = Annotated[
    int | None,
    typer.Option("--context-window", min=1024, help="Tokens, where the server does not say."),
]
SystemPrompt = Annotated[
    Path | None,
    typer.Option(
        "--system-prompt",
        help="File with a system prompt of your own.",
        exists=True,
        dir_okay=False,
    ),
]
SandboxKind = Annotated[
    str | None,
    typer.Option(
        "--sandbox", help="bubblewrap (default), or landlock: weaker, so it must be asked for."
    ),
]
NoSnapshot = Annotated[
    bool, typer.Option("--no-snapshot", help="Do not keep the workspace for `trace undo`.")
]
Resume = Annotated[
    str | None, typer.Option("--resume", help="Go on with a run: its id, part of it, or 'last'.")
]


SMALLEST_WINDOW = 131_072
"""Of the K2 family, in tokens; decides whether MCP declarations are too many to show them all."""


class AgentOptions(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The flags of an agent as they go into the journal."""

    model: str | None = None
    endpoint: str | None = None
    api_key_env: str | None = None
    tools: str | None = None
    mcp: list[str] = []
    effort: str | None = None
    recipe: str | None = None
    recipe_why: str = ""
    max_steps: int | None = None
    max_tokens: int | None = None
    thinking_tokens: int | None = None
    max_seconds: float | None = None
    allow: list[str] = []
    ask: list[str] = []
    deny: list[str] = []
    context_strategy: str | None = None
    context_window: int | None = None
    sandbox: str | None = None
    snapshot: bool = True

    def over(self, kept: dict[str, Any]) -> AgentOptions:
        """These options over those that a run was started with."""
        known = {name: value for name, value in kept.items() if name in self.__struct_fields__}
        return msgspec.convert(known | msgspec.to_builtins(self), AgentOptions)


def build_agent(
    options: AgentOptions,
    *,
    workspace: Path | None = None,
    system_prompt: Path | None = None,
    resume: str | None = None,
    approver: Approver | None = None,
    ask_by_default: bool = False,
    task: str | None = None,
) -> Agent:
    """The agent that the flags describe; with a `task`, a recipe is chosen when none is named.

    Raises `UsageError` for what makes no sense.
    """
    from perilune.agent.agent import Agent
    from perilune.agent.effort import effort_named
    from perilune.agent.models.chat_model import Sampling
    from perilune.agent.permissions.permissions import Permissions

    if resume is not None:
        options = options.over(kept_options(resume))
    permissions = Permissions(
        allow=options.allow,
        ask=options.ask,
        deny=options.deny,
        default="ask" if ask_by_default else "allow",
    )
    if is_nano(options):
        return _nano(options, permissions, workspace, system_prompt, approver)
    choice = recipe_for(options, workspace, task if system_prompt is None else None)
    options.recipe, options.recipe_why = choice.name, choice.why
    recipe = choice.recipe
    tools: list[Tool | str] = [*tool_names(options, recipe), *mcp_tools(options)]
    return Agent(
        build_model(options),
        tools,
        recipe=recipe,
        system_prompt=system_prompt.read_text("utf-8") if system_prompt else None,
        workspace=workspace,
        budget=budget_of(options, recipe),
        sampling=Sampling(effort=effort_named(options.effort).model if options.effort else None),
        permissions=permissions,
        approver=approver,
        context=options.context_strategy or "hide",
        context_window=options.context_window,
        sandbox=_sandbox(options.sandbox),
        snapshot=options.snapshot,
        settings=msgspec.to_builtins(options),
    )


NANO = "nano"
NANO_LINE = (
    "nano, the small model inside the package: it looks up facts and calculates. "
    "For real work: --model DIR or --endpoint URL."
)


def is_nano(options: AgentOptions) -> bool:
    """Whether the embedded model is meant: nothing else is named."""
    if options.endpoint is not None:
        return False
    return options.model is None or (options.model == NANO and not Path(NANO).is_dir())


def _nano(
    options: AgentOptions,
    permissions: Permissions,
    workspace: Path | None,
    system_prompt: Path | None,
    approver: Approver | None,
) -> Agent:
    """The embedded model with the prompt and the tools that it was trained with, and no others."""
    from perilune.nano.agent import nano_agent

    for flag, value in (
        ("--tools", options.tools),
        ("--mcp", options.mcp),
        ("--system-prompt", system_prompt),
        ("--recipe", None if options.recipe in (None, "none") else options.recipe),
        ("--effort", options.effort),
    ):
        if value:
            raise UsageError(
                f"nano knows its own two tools and nothing else, so {flag} is not for it",
                remedy="Name a larger model: --model DIR or --endpoint URL.",
            )
    options.model, options.recipe = NANO, "none"
    return nano_agent(
        build_model(options),
        workspace=workspace,
        budget=budget_of(options, None),
        permissions=permissions,
        approver=approver,
        sandbox=_sandbox(options.sandbox),
        settings=msgspec.to_builtins(options),
    )


def build_model(options: AgentOptions) -> Any:
    """The chat model that `--endpoint` and `--model` name, else the embedded one."""
    if options.endpoint is not None:
        from perilune.agent.models.endpoint import EndpointModel

        return EndpointModel(
            options.endpoint,
            options.model or "",
            api_key_env=options.api_key_env,
            context_window=options.context_window,
        )
    if is_nano(options):
        from perilune.agent.models.engine import EngineModel
        from perilune.nano.agent import nano_folder

        if not (nano_folder() / "config.json").is_file():
            raise UsageError(
                "no model was given, and this installation has none inside",
                remedy="Name a server with --endpoint URL (and --model NAME), e.g. --endpoint "
                "http://localhost:8000/v1, or a checkpoint folder with --model DIR.",
            )
        return EngineModel.from_pretrained(nano_folder())
    assert options.model is not None
    from perilune.agent.agent import resolve_model

    if not Path(options.model).is_dir():
        raise UsageError(
            f"{options.model!r} is no checkpoint folder",
            remedy="Give a folder, or --endpoint URL for a model behind a server.",
        )
    return resolve_model(Path(options.model))


def recipe_for(options: AgentOptions, workspace: Path | None, task: str | None) -> Choice:
    """The recipe that is named, else the one that the task's words choose."""
    from perilune.agent.recipes.choose import Choice, choose
    from perilune.agent.recipes.recipe import NONE, load_recipe

    if options.recipe == NONE:
        return Choice(None, options.recipe_why or "--recipe none")
    if options.recipe is not None:
        return Choice(load_recipe(options.recipe), options.recipe_why or "--recipe")
    if task is None:
        return Choice(None, "the flags say how to work")
    if options.tools is not None:
        return Choice(None, "--tools says what to work with")
    return choose(task, (workspace or Path.cwd()).resolve())


def budget_of(options: AgentOptions, recipe: Recipe_ | None) -> Budget:
    """The recipe's budget, its share by effort, and what the flags say over both."""
    from perilune.agent.budgets import Budget
    from perilune.agent.effort import budget_for, effort_named

    budget = recipe.budget if recipe else Budget()
    if options.effort:
        budget = budget_for(effort_named(options.effort), budget)
    given: dict[str, Any] = {
        "steps": options.max_steps,
        "tokens": options.max_tokens,
        "thinking_tokens": options.thinking_tokens,
        "seconds": options.max_seconds,
    }
    return replace(budget, **{name: value for name, value in given.items() if value is not None})


def tool_names(options: AgentOptions, recipe: Recipe_ | None = None) -> list[str]:
    if options.tools is None and recipe is not None and recipe.tools:
        return list(recipe.tools)
    names = [each.strip() for each in (options.tools or "default").split(",") if each.strip()]
    return [] if names == ["none"] else names


def mcp_tools(options: AgentOptions) -> list[Tool]:
    """The tools of the MCP servers that `--mcp` names; connected until this process ends."""
    if not options.mcp:
        return []
    import atexit

    from perilune.agent.tools.mcp import McpServer, connect_mcp

    servers = []
    for spec in options.mcp:
        name, equals, where = spec.partition("=")
        if not (name and equals and where):
            raise UsageError(f"--mcp {spec!r} is not NAME=COMMAND or NAME=URL")
        if where.startswith(("http://", "https://")):
            servers.append(McpServer(name, url=where))
        else:
            servers.append(McpServer(name, command=shlex.split(where)))
    window = options.context_window or SMALLEST_WINDOW
    connected = connect_mcp(servers, context_window=window)
    atexit.register(connected.close)
    return connected.tools


def kept_options(resume: str) -> dict[str, Any]:
    """The options of an earlier run, from its journal."""
    from perilune.agent.journal.journal import read_journal
    from perilune.events import RunStarted
    from perilune.home import find_run

    for record in read_journal(find_run(resume)).records[:1]:
        if isinstance(record.event, RunStarted):
            return record.event.settings
    return {}


def _sandbox(kind: str | None) -> Any:
    """None: the tools open the strong one when they need it."""
    if kind is None:
        return None
    if kind not in ("bubblewrap", "landlock"):
        raise UsageError(f"--sandbox is bubblewrap or landlock, not {kind!r}")
    from perilune.sandbox import open_sandbox

    return open_sandbox(kind)  # type: ignore[arg-type]  # narrowed above
