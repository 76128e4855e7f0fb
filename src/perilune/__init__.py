"""Perilune: run an AI agent on a model of the Kimi K2 family that you own.

Public names are imported when they are first used, so that `import perilune` stays light.
"""

from perilune import safe_start as safe_start  # before any other import: see there

# isort: split
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read when torch is loaded. Its idle OpenMP threads would spin on the cores that our kernels
# compute on: sixteen streams then take twice the time (docs/log.md, 2026-11-22).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from perilune.agent.agent import Agent as Agent
    from perilune.agent.tool import tool as tool
    from perilune.engine.async_engine import AsyncEngine as AsyncEngine
    from perilune.engine.llm import LLM as LLM
    from perilune.engine.sampling_params import SamplingParams as SamplingParams
    from perilune.swarm.swarm import Swarm as Swarm
    from perilune.weights.load import load_model as load_model

_PUBLIC = {
    "Agent": "perilune.agent.agent",
    "AsyncEngine": "perilune.engine.async_engine",
    "LLM": "perilune.engine.llm",
    "SamplingParams": "perilune.engine.sampling_params",
    "Swarm": "perilune.swarm.swarm",
    "load_model": "perilune.weights.load",
    "tool": "perilune.agent.tool",
}
_ROOMS = (
    "agent",
    "chat",
    "config",
    "engine",
    "errors",
    "kernels",
    "model",
    "swarm",
    "weights",
    "world",
)

__all__ = [*_PUBLIC, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return import_module(f"perilune.{name}")
    raise AttributeError(f"module 'perilune' has no attribute {name!r}")
