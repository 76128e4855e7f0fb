"""The flags that describe an agent and a swarm, in groups that commands share.

The choices are kept in the run's journal, so that `--resume` needs none of them again; a flag given
with it wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from perilune.agent.settings import AgentSettings
from perilune.cli.cluster_options import DatabaseUrl

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
        help="How to go about the task: reason, search, code, write, ui, one of your own, or none. "
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
    int | None,
    typer.Option("--thinking-tokens", min=1, help="Maximum thinking tokens of one step."),
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
    str | None, typer.Option("--resume", help="Continue a run: its id, part of the id, or 'last'.")
]


@dataclass(frozen=True, slots=True)
class AgentFlags:
    """Who works, with what, and where."""

    model: Model = None
    endpoint: Endpoint = None
    api_key_env: ApiKeyEnv = None
    tools: Tools = None
    mcp: Mcp = None
    workspace: Workspace = None
    resume: Resume = None


@dataclass(frozen=True, slots=True)
class RuleFlags:
    """How the work is done, and within which bounds."""

    effort: Effort = None
    recipe: Recipe = None
    max_steps: MaxSteps = None
    max_tokens: MaxTokens = None
    thinking_tokens: ThinkingTokens = None
    max_seconds: MaxSeconds = None
    allow: Allow = None
    ask: Ask = None
    deny: Deny = None
    context_strategy: ContextStrategy = None
    context_window: ContextWindow = None
    system_prompt: SystemPrompt = None
    sandbox: SandboxKind = None
    no_snapshot: NoSnapshot = False


@dataclass(frozen=True, slots=True)
class SwarmFlags:
    """Whether the task is split among sub-agents, and how far."""

    swarm: Annotated[
        bool, typer.Option("--swarm", help="Let the agent split the task among sub-agents.")
    ] = False
    swarm_limits: Annotated[
        str | None,
        typer.Option(
            "--swarm-limits",
            metavar="NAME=VALUE,...",
            help="Limits of the swarm, e.g. main_steps=100,sub_agents=30,parallel=8.",
        ),
    ] = None
    database: DatabaseUrl = None


NO_FLAGS, NO_RULES, NO_SWARM = AgentFlags(), RuleFlags(), SwarmFlags()


def settings_of(who: AgentFlags, rules: RuleFlags = NO_RULES) -> AgentSettings:
    """The settings that the flags say; those that were not given stay open."""
    return AgentSettings(
        model=who.model,
        endpoint=who.endpoint,
        api_key_env=who.api_key_env,
        tools=who.tools,
        mcp=who.mcp or [],
        effort=rules.effort,
        recipe=rules.recipe,
        max_steps=rules.max_steps,
        max_tokens=rules.max_tokens,
        thinking_tokens=rules.thinking_tokens,
        max_seconds=rules.max_seconds,
        allow=rules.allow or [],
        ask=rules.ask or [],
        deny=rules.deny or [],
        context_strategy=rules.context_strategy,
        context_window=rules.context_window,
        sandbox=rules.sandbox,
        snapshot=not rules.no_snapshot,
    )
