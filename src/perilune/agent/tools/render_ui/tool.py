"""`render_ui`: draw the page, compare it with the mock-up, and see both; needs the extra `browser`.

The mock-up is the first picture that a person gave to the run.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from perilune.agent.pictures.store import PictureLost, data_part
from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.agent.tools.render_ui.compare import Comparison, compare, png_of, read_mockup
from perilune.agent.tools.render_ui.page import Round
from perilune.agent.tools.render_ui.render import MOST_PICTURE, Rendered, Renderer
from perilune.agent.tools.render_ui.rounds import Rounds
from perilune.errors import ToolError

_STATE = "render_ui"
PAGE = "index.html"
ASKED = 0.95
"""Structural similarity that is asked for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One comparison of the page with the mock-up; `problems` spoil it, however alike they are."""

    round: Round
    rounds: Rounds
    rendered: Rendered
    comparison: Comparison
    mockup: bytes
    problems: list[str]


class RenderUi(ReadingTool):
    name = "render_ui"
    parallel_safe = False
    timeout = 180.0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        found = await draw_and_compare(context, str(arguments.get("path", PAGE)), ASKED)
        number = found.round.number
        comparison = found.comparison
        lines = [
            f"Round {number}: structural similarity {comparison.similarity:.4f}, mean difference "
            f"of the colours {comparison.colour:.1f} of 255"
        ]
        if found.comparison.places:
            lines.append("Most different: " + "; ".join(found.comparison.places))
        size = _size(found.mockup)
        if found.rendered.size != size:
            reach = found.rendered.size
            lines.append(
                f"The page reaches {reach[0]} x {reach[1]}, the mock-up is {size[0]} x {size[1]}."
            )
        lines += [f"Not loaded: {each}" for each in found.rendered.refused[:5]]
        lines += found.problems
        lines.append("Below: the mock-up, your page, and where they differ (red).")
        parts: list[dict[str, Any]] = [{"type": "text", "text": "\n".join(lines)}]
        for name, data in (
            ("mock-up", found.mockup),
            (f"round-{number}.png", found.rendered.screenshot),
            (f"round-{number}-difference.png", found.comparison.difference),
        ):
            parts.append(data_part(data, name))
        return ToolResult(parts)


async def draw_and_compare(context: ToolContext, path: str, asked: float) -> Outcome:
    """Draw an HTML file of the workspace at the mock-up's size, and keep the round.

    Raises `ToolError`: no mock-up, no such file, no browser.
    """
    mockup = await in_thread(_mockup, context)
    wanted = await in_thread(read_mockup, mockup)
    if _STATE not in context.state:  # one browser a run
        context.state[_STATE] = Renderer(workspace_of(context))
        context.on_run_end(context.state[_STATE].close)
    rendered = await context.state[_STATE].render(path, wanted.size)
    assert context.outputs is not None
    run_folder = context.outputs.parent

    def judge() -> tuple[Comparison, Rounds, Round]:
        shot = Image.open(io.BytesIO(rendered.screenshot)).convert("RGB")
        comparison = compare(wanted, shot)
        rounds = Rounds(run_folder)
        upright = png_of(wanted)
        made = rounds.add(path, upright, rendered.screenshot, comparison, asked)
        return comparison, rounds, made

    comparison, rounds, made = await in_thread(judge)
    problems = []
    if rendered.picture > MOST_PICTURE:
        problems.append(
            f"One picture covers {rendered.picture:.0%} of the page, and at most "
            f"{MOST_PICTURE:.0%} are allowed. Draw it with HTML and CSS."
        )
    return Outcome(made, rounds, rendered, comparison, mockup, problems)


def _mockup(context: ToolContext) -> bytes:
    given = context.pictures.given() if context.pictures else []
    if not given or context.pictures is None or context.outputs is None:
        raise ToolError("there is no mock-up: the person gave no picture (--image FILE)")
    try:
        return context.pictures.read(given[0])
    except PictureLost as error:
        raise ToolError(f"the mock-up is lost: {error.message}") from None


def _size(mockup: bytes) -> tuple[int, int]:
    return read_mockup(mockup).size
