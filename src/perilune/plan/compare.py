"""Several machines for one model, or several models for one machine, and which of them to look at.

A plan is on the Pareto front when none that costs no more is faster. Prices that nobody has given
a source for leave a machine out of the front, not out of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perilune.plan.machine import Machine
from perilune.plan.model_size import ModelSize
from perilune.plan.planner import Plan, Request, plan


@dataclass(frozen=True, slots=True)
class Compared:
    """Plans in the order asked for; `front`: whether each is on the Pareto front."""

    plans: tuple[Plan, ...]
    front: tuple[bool, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {**each.as_json(), "pareto": best}
            for each, best in zip(self.plans, self.front, strict=True)
        ]


def compare(models: Sequence[ModelSize], machines: Sequence[Machine], request: Request) -> Compared:
    """Every model on every machine. Raises UsageError as `plan`."""
    plans = tuple(plan(model, machine, request) for model in models for machine in machines)
    return Compared(plans, tuple(on_front(each, plans) for each in plans))


def on_front(this: Plan, plans: Sequence[Plan]) -> bool:
    """No other plan is at least as cheap and as fast, and better in one of the two."""
    mine = _point(this)
    if mine is None:
        return False
    for other in plans:
        theirs = _point(other)
        if theirs is None or other is this:
            continue
        if theirs[0] <= mine[0] and theirs[1] >= mine[1] and theirs != mine:
            return False
    return True


def _point(this: Plan) -> tuple[float, float] | None:
    """(dollars, tokens per second), where both are known."""
    if this.decode is None or this.machine.price is None:
        return None
    return this.machine.price.value, this.decode.value
