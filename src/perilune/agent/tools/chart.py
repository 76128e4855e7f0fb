"""`chart`: data in, PNG out. The specification is data, never code."""

from __future__ import annotations

import io
import math
import threading
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, workspace_of
from perilune.errors import ToolError

_DRAWING = threading.Lock()  # matplotlib's font cache and text layout are not thread-safe


class Chart(DescribedTool):
    name = "chart"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        png = await in_thread(draw, arguments)
        path = await in_thread(workspace_of(context).write_bytes, str(arguments["path"]), png)
        return ToolResult(f"drew {path} ({len(png)} bytes)", files=[path])


def draw(spec: dict[str, Any]) -> bytes:
    """A chart as PNG bytes. Raises `ToolError` when the parts do not fit together."""
    try:
        from matplotlib import rc_context, rcdefaults
        from matplotlib.figure import Figure
    except ImportError:
        raise ToolError(
            "charts need matplotlib", remedy="The person can run: pip install 'perilune[chart]'"
        ) from None
    kind, series = str(spec["kind"]), list(spec.get("series", []))
    _check(kind, series, spec)
    with _DRAWING, rc_context():
        rcdefaults()  # matplotlib reads a `matplotlibrc` of the current folder, which may run TeX
        figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        if kind == "heatmap":
            _heatmap(figure, axes, spec)
        elif kind == "pie":
            axes.pie(series[0]["y"], labels=series[0].get("x"), autopct="%1.0f%%")
        elif kind == "box":
            labels = [each.get("label", str(n)) for n, each in enumerate(series, 1)]
            axes.boxplot([_numbers(each["y"]) for each in series])
            axes.set_xticks(range(1, len(series) + 1), labels)
        elif kind == "histogram":
            for each in series:
                axes.hist(
                    _numbers(each["y"]),
                    bins=int(spec.get("bins", 20)),
                    alpha=1.0 if len(series) == 1 else 0.6,
                    label=each.get("label"),
                )
        elif kind == "bar":
            _bars(axes, series, stacked=bool(spec.get("stacked")))
        else:
            for each in series:
                y = [math.nan if value is None else value for value in each["y"]]
                x = each.get("x", range(len(y)))
                if kind == "line":
                    axes.plot(x, y, label=each.get("label"))
                else:
                    axes.scatter(x, y, s=16, label=each.get("label"))
        _decorate(axes, kind, series, spec)
        buffer = io.BytesIO()
        try:
            figure.savefig(buffer, format="png")
        except (ValueError, OverflowError) as error:
            raise ToolError(f"the chart cannot be drawn: {error}") from None
        return buffer.getvalue()


def _check(kind: str, series: list[dict[str, Any]], spec: dict[str, Any]) -> None:
    if kind == "heatmap":
        rows = spec.get("rows")
        if not rows or len({len(row) for row in rows}) != 1:
            raise ToolError("a heatmap needs rows of equal length")
        return
    if not series:
        raise ToolError(f"a {kind} chart needs series")
    for number, each in enumerate(series, 1):
        if "x" in each and len(each["x"]) != len(each["y"]):
            raise ToolError(
                f"series {number} has {len(each['x'])} x values and {len(each['y'])} y values"
            )
        if "x" in each and len({isinstance(value, str) for value in each["x"]}) > 1:
            raise ToolError(f"series {number} mixes numbers and labels in x")
    if kind == "pie" and (
        len(series) != 1
        or any(v is None or v < 0 for v in series[0]["y"])
        or not sum(series[0]["y"])
    ):
        raise ToolError("a pie needs one series of values that are not negative")


def _numbers(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _bars(axes: Any, series: list[dict[str, Any]], *, stacked: bool) -> None:
    """Grouped or stacked bars over the labels of all series, in their order of appearance."""
    places = list(
        dict.fromkeys(x for each in series for x in each.get("x", range(1, len(each["y"]) + 1)))
    )
    index = {place: number for number, place in enumerate(places)}
    width = 0.8 if stacked else 0.8 / len(series)
    base = [0.0] * len(places)
    for number, each in enumerate(series):
        shift = 0.0 if stacked else (number - (len(series) - 1) / 2) * width
        heights = [0.0] * len(places)
        for x, y in zip(each.get("x", range(1, len(each["y"]) + 1)), each["y"], strict=True):
            heights[index[x]] += y or 0.0
        at = [place + shift for place in range(len(places))]
        axes.bar(at, heights, width, bottom=base if stacked else 0, label=each.get("label"))
        if stacked:
            base = [low + height for low, height in zip(base, heights, strict=True)]
    rotation = 45 if len(places) > 8 else 0
    axes.set_xticks(range(len(places)), [str(place) for place in places], rotation=rotation)


def _heatmap(figure: Any, axes: Any, spec: dict[str, Any]) -> None:
    image = axes.imshow(spec["rows"], aspect="auto")
    figure.colorbar(image)
    for labels, set_ticks, count in (
        (spec.get("column_labels"), axes.set_xticks, len(spec["rows"][0])),
        (spec.get("row_labels"), axes.set_yticks, len(spec["rows"])),
    ):
        if labels is None:
            continue
        if len(labels) != count:
            raise ToolError(f"there are {len(labels)} labels for {count} rows or columns")
        set_ticks(range(count), labels)


def _decorate(axes: Any, kind: str, series: list[dict[str, Any]], spec: dict[str, Any]) -> None:
    # Dollar signs would start mathematical text, which may not parse.
    for name, setter in (
        ("title", axes.set_title), ("x_label", axes.set_xlabel), ("y_label", axes.set_ylabel)
    ):  # fmt: skip
        if spec.get(name):
            setter(str(spec[name]).replace("$", r"\$"))
    if kind in ("line", "scatter", "bar", "histogram"):
        if spec.get("log_x"):
            axes.set_xscale("log")
        if spec.get("log_y"):
            axes.set_yscale("log")
        if any(each.get("label") for each in series):
            axes.legend()
    if kind in ("line", "scatter"):
        axes.grid(alpha=0.3)
