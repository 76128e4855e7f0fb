"""A reading by rubric: the model, outside of its conversation, names where a text falls short.

It is the only check that asks a model, so it comes after the others have passed, and once a task:
its words lead to a revision, and never keep an answer back.
"""

from __future__ import annotations

import json
import re

from perilune.agent.checks.check import Proposal, made
from perilune.agent.checks.report import report_text
from perilune.events import CheckMade

QUESTION = """\
Judge a text by this rubric. Quote the words that you object to. Name at most three points, only
such that a revision must mend; none is a good answer.

# Rubric
{rubric}

# The task was
{task}

# The text
{text}

Answer with JSON alone: {{"problems": ["...", ...]}}"""
_LONGEST = 60_000
_MOST = 3


class Rubric:
    """The text was read by the rubric, and what that found was revised once."""

    name = "rubric"

    def __init__(self, rubric: str) -> None:
        self._rubric = rubric

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        if proposal.ask is None or not self._rubric or proposal.others:
            return None
        verdict = proposal.state.verdict
        if verdict is not None and any(check.name == self.name for check in verdict.checks):
            earlier = next(check for check in verdict.checks if check.name == self.name)
            return made(self.name, [], notes=[f"revised once for: {p}" for p in earlier.problems])
        if proposal.failed or proposal.last:
            return None
        text = await report_text(proposal) or proposal.text
        task = "\n\n".join(proposal.said())
        said = await proposal.ask(
            QUESTION.format(rubric=self._rubric, task=task, text=text[:_LONGEST])
        )
        problems = read_problems(said)
        if problems is None:
            return made(self.name, [], notes=["the reading gave no answer that can be used"])
        return made(self.name, problems, evidence=["read by the rubric"])


def read_problems(said: str) -> list[str] | None:
    """The problems of a reading; None when it cannot be read."""
    match = re.search(r"\{.*\}", said, re.S)
    try:
        fields = json.loads(match[0]) if match else None
    except ValueError:
        return None
    problems = fields.get("problems") if isinstance(fields, dict) else None
    if not isinstance(problems, list):
        return None
    return [str(each)[:500] for each in problems if str(each).strip()][:_MOST]
