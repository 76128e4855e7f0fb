"""A wide task -> an orchestrator that splits it -> sub-agents in parallel -> one merged answer.

    from perilune.swarm import Swarm
    result = Swarm(Agent(model, ["web"])).run("Compare these forty towns ...")

The public names are imported when they are first used. See docs/swarm.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perilune.swarm.limits import SwarmLimits as SwarmLimits
    from perilune.swarm.result import SwarmResult as SwarmResult
    from perilune.swarm.swarm import Swarm as Swarm
    from perilune.swarm.swarm import SwarmSession as SwarmSession

_PUBLIC = {
    "Swarm": "perilune.swarm.swarm",
    "SwarmLimits": "perilune.swarm.limits",
    "SwarmResult": "perilune.swarm.result",
    "SwarmSession": "perilune.swarm.swarm",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'perilune.swarm' has no attribute {name!r}")
