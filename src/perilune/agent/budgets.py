"""Budgets of a run as data, and what was spent of them."""

from __future__ import annotations

from dataclasses import dataclass

from perilune.agent.endings import BudgetExceeded
from perilune.events import Usage

DEFAULT_REVISIONS = 2
DEFAULT_STEPS = 300
"""K2 Thinking's agentic evaluations go to 300 steps (its model card)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one task; None means no limit.

    `steps` are completions of the model, `tokens` prompt and completion tokens together,
    `thinking_tokens` the reasoning of one step, `seconds` the wall time in which a process works on
    the task, `cost` in the unit of the model's prices. `revisions` is how often an answer that
    failed its checks is planned and worked on anew.
    """

    steps: int | None = DEFAULT_STEPS
    tokens: int | None = None
    thinking_tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    revisions: int = DEFAULT_REVISIONS

    def check(self, *, steps: int, usage: Usage, seconds: float) -> None:
        """Raise `BudgetExceeded` when the next step may not begin."""
        for which, spent, limit in (
            ("steps", steps, self.steps),
            ("tokens", usage.total_tokens, self.tokens),
            ("seconds", seconds, self.seconds),
            ("cost", usage.cost, self.cost),
        ):
            if limit is not None and spent >= limit:
                raise BudgetExceeded(which, round(spent, 3), limit)
