"""The verdict on a proposed answer: all checks in their order, and what the model is told."""

from __future__ import annotations

from collections.abc import Sequence

from perilune.agent.checks.check import Check, Proposal, Verifier, made
from perilune.events import CheckMade, Verified


async def examine_all(verifiers: Sequence[Verifier | Check], proposal: Proposal) -> Verified:
    """The verdict of all checks, in their order. Plain verifiers appear only when they object."""
    checks: list[CheckMade] = []
    for verifier in verifiers:
        if isinstance(verifier, Check):
            check = await verifier.examine(proposal)
        else:
            problems = await verifier.check(proposal.text, proposal.state)
            name = type(verifier).__name__
            check = made(name, problems) if problems else None
        if check is not None:
            checks.append(check)
            proposal.failed = proposal.failed or check.outcome == "failed"
    return verdict_of(checks, proposal.attempt)


def verdict_of(checks: Sequence[CheckMade], attempt: int) -> Verified:
    problems = [problem for check in checks for problem in check.problems]
    return Verified(passed=not problems, problems=problems, attempt=attempt, checks=list(checks))


def revision_request(problems: Sequence[str]) -> str:
    """What the model is told when checks object."""
    lines = "\n".join(f"- {each}" for each in problems)
    return (
        f"Your answer was checked and these problems were found:\n{lines}\n"
        "Plan anew what is missing, do it, and give the whole answer again."
    )
