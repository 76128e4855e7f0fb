"""How hard to work on a task: a share of its budget, and for `heavy` eight trajectories at once.

A recipe's budget (or the default one) is the whole; low and medium are shares of it. K2 Thinking's
evaluations give 24,000 to 48,000 thinking tokens per step and up to 300 steps, and its heavy mode
rolls out eight trajectories and merges them (model card).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from perilune.agent.budgets import Budget
from perilune.errors import UsageError

EffortName = Literal["low", "medium", "high", "heavy"]
DEFAULT_THINKING = 48_000


@dataclass(frozen=True, slots=True)
class Effort:
    """`steps` and `thinking` are shares of the whole budget, `model` is what the model is told."""

    name: EffortName
    steps: float
    thinking: float
    revisions: int
    model: Literal["low", "medium", "high"]
    trajectories: int = 1


EFFORTS: dict[str, Effort] = {
    "low": Effort("low", 1 / 6, 1 / 16, 1, "low"),
    "medium": Effort("medium", 1 / 2, 1 / 4, 2, "medium"),
    "high": Effort("high", 1, 1, 3, "high"),
    "heavy": Effort("heavy", 1, 1, 3, "high", trajectories=8),
}


def effort_named(name: str) -> Effort:
    """Raises `UsageError` for an unknown name."""
    if name not in EFFORTS:
        raise UsageError(f"--effort must be one of {', '.join(EFFORTS)}, not {name!r}")
    return EFFORTS[name]


def budget_for(effort: Effort, whole: Budget) -> Budget:
    """The share of a budget that an effort gives."""
    thinking = whole.thinking_tokens or DEFAULT_THINKING
    return dataclasses.replace(
        whole,
        steps=None if whole.steps is None else max(4, round(whole.steps * effort.steps)),
        thinking_tokens=max(256, round(thinking * effort.thinking)),
        revisions=effort.revisions,
    )
