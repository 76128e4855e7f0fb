"""nano as a preset: what a command runs where no model is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import ChatModel
from perilune.nano import agent as nano

if TYPE_CHECKING:
    from perilune.swarm.limits import SwarmLimits
    from perilune.swarm.swarm import MakeBackend, Swarm


class Nano:
    """nano as a preset of agents and of swarms."""

    name = "nano"
    line = (
        "nano, the small model inside the package: it looks up facts and calculates. "
        "For real work: --model DIR or --endpoint URL."
    )

    def folder(self) -> Path:
        return nano.nano_folder()

    def is_of(self, agent: Agent) -> bool:
        return agent.system_prompt == nano.SYSTEM_PROMPT

    def make_agent(self, model: ChatModel | Path, **options: Any) -> Agent:
        return nano.nano_agent(model, **options)

    def swarm_limits(self) -> SwarmLimits:
        from perilune.nano.swarm import LIMITS

        return LIMITS

    def make_swarm(self, agent: Agent, *, limits: SwarmLimits, make_backend: MakeBackend) -> Swarm:
        """It orchestrates with a prompt of its own."""
        from perilune.nano.swarm import swarm_of

        return swarm_of(agent, limits=limits, make_backend=make_backend)


NANO = Nano()
