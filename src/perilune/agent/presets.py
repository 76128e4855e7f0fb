"""Models that come with a prompt and tools of their own, and take no others.

A preset is named here and lies elsewhere; it is imported when it is meant.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import ChatModel
from perilune.agent.settings import AgentSettings

PRESETS = {"nano": ("perilune.nano.preset", "NANO")}
DEFAULT = "nano"
"""What answers where neither a model nor an endpoint is named."""


class Preset(Protocol):
    """One such model."""

    @property
    def name(self) -> str: ...

    @property
    def line(self) -> str:
        """What a person who did not choose it is told."""
        ...

    def folder(self) -> Path:
        """Its checkpoint; an installation may lack it."""
        ...

    def is_of(self, agent: Agent) -> bool:
        """Whether the agent was made by `make_agent`."""
        ...

    def make_agent(self, model: ChatModel | Path, **options: Any) -> Agent:
        """An agent of it. `options` are those of `Agent`."""
        ...


def preset_name(settings: AgentSettings) -> str | None:
    """The preset that is meant: by its name, or because nothing else is named.

    A folder of that name is a checkpoint, and a model behind an endpoint may be called anything.
    """
    if settings.endpoint is not None:
        return None
    if settings.model is None:
        return DEFAULT
    named = settings.model in PRESETS and not Path(settings.model).is_dir()
    return settings.model if named else None


def load_preset(name: str) -> Preset:
    module, attribute = PRESETS[name]
    preset: Preset = getattr(import_module(module), attribute)
    return preset


def preset_of(agent: Agent) -> Preset | None:
    """The preset that made an agent."""
    return next((each for each in map(load_preset, PRESETS) if each.is_of(agent)), None)
