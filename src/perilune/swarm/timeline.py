"""A swarm's time as bars, one row an agent: in the terminal, or as an SVG or PNG file.

Dark is the model's time, light the tools', and the critical path (what the wall time hung on) is
marked: the orchestrator's own turns and the sub-agent of each stage that ended last.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.text import Text

from perilune.errors import UsageError
from perilune.swarm.assignment import FAILED
from perilune.swarm.trace import Lane, SwarmTrace
from perilune.swarm.tree import one_line, summary

NAME = 22
MOST_ROWS = 200
SHADES = {"model": "█", "tools": "▒"}


def render_timeline(trace: SwarmTrace, width: int = 100) -> Group:
    """As text of `width` columns."""
    bar = max(20, width - NAME - 14)
    lines = [Text(summary(trace.state), "dim")]
    for lane in trace.lanes[:MOST_ROWS]:
        line = Text(f"{one_line(lane.name, NAME):{NAME}} ", _style(lane))
        line.append(_bar(trace, lane, bar), _style(lane))
        line.append(f" {max(0.0, lane.ended - lane.began):7.1f} s", "dim")
        line.append(" ★" if lane.critical else "", "magenta")
        lines.append(line)
    if len(trace.lanes) > MOST_ROWS:
        lines.append(Text(f"and {len(trace.lanes) - MOST_ROWS} more", "dim"))
    lines.append(Text(f"█ model  ▒ tools  ★ critical path, {trace.critical_seconds:.1f} s", "dim"))
    return Group(*lines)


def save_timeline(trace: SwarmTrace, path: Path) -> None:
    """Draw into a `.svg` or `.png` file.

    Raises `UsageError` for another suffix, or when the extra `chart` is not installed.
    """
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"{path} is neither .svg nor .png")
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "drawing needs matplotlib", remedy="Install it: pip install 'perilune[chart]'."
        ) from None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "perilune"}):
        _draw(trace, path)


def _draw(trace: SwarmTrace, path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    lanes = trace.lanes[:MOST_ROWS]
    start = trace.state.began
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(lanes)), layout="constrained")
    axes = figure.add_subplot()
    for row, lane in enumerate(lanes):
        colour = _colour(lane)
        if lane.assignment is not None:
            axes.barh(row, lane.ended - lane.began, left=lane.began - start, height=0.7,
                      color=colour, alpha=0.15)  # fmt: skip
        for span in lane.spans:
            axes.barh(row, span.ended - span.began, left=span.began - start, height=0.7,
                      color=colour, alpha=1.0 if span.kind == "model" else 0.45)  # fmt: skip
    axes.set_yticks(range(len(lanes)), [one_line(lane.name, NAME) for lane in lanes], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.01, y=0.01)
    axes.set_xlabel("seconds")
    axes.set_title(summary(trace.state), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = [("critical path", COLOURS["critical"]), ("others", COLOURS["other"])]
    if any(_colour(lane) == COLOURS["failed"] for lane in lanes):
        kinds.append(("failed", COLOURS["failed"]))
    handles = [Patch(color=colour, label=name) for name, colour in kinds]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(kinds), fontsize=7, frameon=False
    )
    date = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=110, metadata=date)


COLOURS = {"critical": "#b5446e", "other": "#3b6ea5", "failed": "#999999"}


def _colour(lane: Lane) -> str:
    if lane.assignment is not None and lane.assignment.status in FAILED:
        return COLOURS["failed"]
    return COLOURS["critical" if lane.critical else "other"]


def _style(lane: Lane) -> str:
    if lane.assignment is not None and lane.assignment.status in FAILED:
        return "red"
    return "magenta" if lane.critical else "blue"


def _bar(trace: SwarmTrace, lane: Lane, width: int) -> str:
    """The lane's time on the swarm's own scale."""
    start, whole = trace.state.began, max(trace.state.seconds, 1e-9)

    def column(when: float) -> int:
        return min(width - 1, max(0, int((when - start) / whole * width)))

    cells = [" "] * width
    for i in range(column(lane.began), column(lane.ended) + 1):
        cells[i] = "░" if lane.assignment is not None else " "
    for kind in ("tools", "model"):  # where both fall into one column, the model shows
        for span in lane.spans:
            if span.kind == kind:
                for i in range(column(span.began), column(span.ended) + 1):
                    cells[i] = SHADES[kind]
    return "".join(cells)
