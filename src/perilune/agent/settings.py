"""What an agent is made of, as data: one object for the command line, the servers and tests.

`perilune.agent.build` makes an `Agent` of it. A field that is left out means: as the recipe, the
effort or the model has it, else the constants below. The settings are kept in the run's journal, so
that a resumed run needs none of them again; keys are never kept, only the name of the variable that
holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

TOOLS = "default"
"""Where neither the settings nor a recipe names tools."""
CONTEXT = "hide"
"""What is done when the model's window fills."""
SMALLEST_WINDOW = 131_072
"""Of the K2 family, in tokens; decides whether MCP declarations are too many to show them all."""


class AgentSettings(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """The settings of an agent.

    model: a preset's name, a checkpoint folder, or the name of a model at `endpoint` (a URL).
    api_key_env: the environment variable that holds the endpoint's key. tools: tools and tool sets,
    comma-separated, or "none". mcp: servers, `NAME=COMMAND` or `NAME=URL`. recipe: its name, or
    "none"; `recipe_why` says who chose it. max_steps, max_tokens, thinking_tokens (of one step),
    max_seconds: the budget. allow, ask, deny: patterns of calls. context_window: in tokens, where
    the server does not say. sandbox: "bubblewrap" or "landlock". snapshot: keep the workspace as it
    was, for undo.
    """

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

    @property
    def kept(self) -> dict[str, Any]:
        """What the journal keeps: the fields that say something."""
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return kept

    def over(self, kept: Mapping[str, Any]) -> AgentSettings:
        """These settings over those that a run was started with."""
        known = {name: value for name, value in kept.items() if name in self.__struct_fields__}
        return msgspec.convert(known | self.kept, AgentSettings)

    def but(self, **changed: Any) -> AgentSettings:
        """The same settings with some fields changed."""
        return msgspec.structs.replace(self, **changed)
