"""The argument behind an answer stands: its conclusion rests on sources and on checks that ran."""

from __future__ import annotations

from perilune.agent.checks.check import Proposal, made
from perilune.agent.evidence.argument import problems
from perilune.events import CheckMade


class Argument:
    """There is an argument (see the tool `argue`), and nothing is wrong with it."""

    name = "argument"

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        nodes = proposal.state.argument
        if not nodes:
            if proposal.others:
                return None  # the merged trajectories have theirs
            text = (
                "The answer has no argument behind it. Put question, hypotheses, checks and "
                "conclusion into one with `argue`."
            )
            return made(self.name, [text])
        found = problems(nodes, outputs=proposal.tool_outputs(), evidence=proposal.state.evidence)
        grounds = [
            f"{node.id}: {node.result or node.evidence}"
            for node in nodes.values()
            if node.kind in ("check", "source")
        ]
        return made(self.name, found, evidence=grounds)
