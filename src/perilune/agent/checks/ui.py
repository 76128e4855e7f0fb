"""The page of the `ui` recipe: drawn once more, and compared with the mock-up.

What the model says of it counts for nothing; the verdict carries the figure that was measured.
"""

from __future__ import annotations

from perilune.agent.checks.check import Proposal, made
from perilune.errors import ToolError
from perilune.events import CheckMade


class Ui:
    """The page's structural similarity to the mock-up is at least `asked`."""

    name = "ui"

    def __init__(self, asked: float) -> None:
        self.asked = asked

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        from perilune.agent.tools.render_ui.tool import draw_and_compare

        path = page_path(proposal)
        try:
            found = await draw_and_compare(proposal.tools, path, self.asked)
        except ToolError as error:
            return made(self.name, [f"{path} could not be compared: {error.message}."])
        similarity = found.comparison.similarity
        problems = list(found.problems)
        if similarity < self.asked:
            places = "; ".join(found.comparison.places) or "everywhere a little"
            problems.append(
                f"The structural similarity of {path} to the mock-up is {similarity:.4f}, and "
                f"{self.asked:g} is asked for. Most different: {places}."
            )
        figure = (
            f"structural similarity {similarity:.4f} ({self.asked:g} asked), "
            f"colours differ by {found.comparison.colour:.1f} of 255"
        )
        return CheckMade(
            name=self.name,
            outcome="failed" if problems else "passed",
            problems=problems,
            notes=[figure],
            evidence=[str(found.rounds.index)],
        )


def page_path(proposal: Proposal) -> str:
    """The HTML file that was drawn last, else `index.html`."""
    for done in reversed(proposal.state.ledger):
        if done.name == "render_ui" and done.outcome == "ok":
            return str(done.arguments.get("path", "index.html"))
    return "index.html"
