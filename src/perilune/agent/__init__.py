"""A task -> think, call tools, observe, verify, revise -> answer.

The public names are imported when they are first used: a tool needs `agent.tool` only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perilune.agent.agent import Agent as Agent
    from perilune.agent.agent import RunResult as RunResult
    from perilune.agent.agent import Session as Session
    from perilune.agent.budgets import Budget as Budget
    from perilune.agent.models.chat_model import Sampling as Sampling
    from perilune.agent.models.endpoint import EndpointModel as EndpointModel
    from perilune.agent.permissions.permissions import Permissions as Permissions

_PUBLIC = {
    "Agent": "perilune.agent.agent",
    "Budget": "perilune.agent.budgets",
    "EndpointModel": "perilune.agent.models.endpoint",
    "Permissions": "perilune.agent.permissions.permissions",
    "RunResult": "perilune.agent.agent",
    "Sampling": "perilune.agent.models.chat_model",
    "Session": "perilune.agent.agent",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'perilune.agent' has no attribute {name!r}")
