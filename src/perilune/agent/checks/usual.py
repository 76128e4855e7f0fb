"""The checks that every answer goes through."""

from __future__ import annotations

from perilune.agent.checks.check import Check, Verifier
from perilune.agent.journal.state import RunState


class NonEmptyAnswer:
    """There is an answer at all."""

    async def check(self, answer: str, state: RunState) -> list[str]:
        return [] if answer.strip() else ["The answer is empty. Write the answer to the task."]


class PlanClosed:
    """Every item of the plan is done or dropped, or the answer says that it is open."""

    async def check(self, answer: str, state: RunState) -> list[str]:
        said = " ".join(answer.casefold().split())
        return [
            f"The plan item {item.text!r} is still {item.status}. Finish it, mark it done or "
            "dropped (with the reason), or say in the answer, by its name, that it is open."
            for item in state.plan
            if item.status in ("open", "active")
            and " ".join(item.text.casefold().split()) not in said
        ]


def default_verifiers() -> tuple[Verifier | Check, ...]:
    """What every answer goes through: numbers, code and citations by the check that fits."""
    from perilune.agent.checks.citations import Citations
    from perilune.agent.checks.code import Code
    from perilune.agent.checks.facts import Facts
    from perilune.agent.checks.numbers import Numbers
    from perilune.agent.checks.rows import Rows

    return NonEmptyAnswer(), Citations(), PlanClosed(), Numbers(), Facts(), Rows(), Code()
