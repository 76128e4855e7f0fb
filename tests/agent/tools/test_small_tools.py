"""plan, note, chart, view_image, and the choosing of tools by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.tool import Tool
from perilune.agent.tool_registry import ToolRegistry
from perilune.agent.tools import BUILTIN, SETS, default_tools, load_tools, tools_by_name
from perilune.agent.tools.chart import Chart
from perilune.agent.tools.note import Note
from perilune.agent.tools.plan import Plan
from perilune.agent.tools.view_image import ViewImage
from perilune.errors import ToolError, UsageError
from perilune.events import Event, NoteTaken, PlanItem, PlanUpdated
from tests.agent.drawn import image_part, png
from tests.agent.tools.conftest import Call

# --- plan, note ---


async def test_the_plan_is_said_whole(call: Call, events: list[Event]) -> None:
    result = await call(
        Plan(),
        items=[
            {"text": "read", "status": "done"},
            {"text": "write", "status": "active"},
            {"text": "dance", "status": "dropped", "note": "no music"},
            {"text": "rest"},
        ],
    )
    assert result.content == "[x] read\n[>] write\n[-] dance (no music)\n[ ] rest"
    assert events == [
        PlanUpdated(
            items=[
                PlanItem(text="read", status="done"),
                PlanItem(text="write", status="active"),
                PlanItem(text="dance", status="dropped", note="no music"),
                PlanItem(text="rest"),
            ]
        )
    ]


@pytest.mark.parametrize(
    "items",
    [
        [],
        "read",
        [{"status": "done"}],
        [{"text": ""}],
        [{"text": "a", "status": "perhaps"}],
        [{"text": "a", "status": "active"}, {"text": "b", "status": "active"}],
        [{"text": "a", "status": "dropped"}],
        [{"text": "a", "extra": 1}],
    ],
)
async def test_a_bad_plan_changes_nothing(call: Call, events: list[Event], items: Any) -> None:
    with pytest.raises(ToolError):
        await call(Plan(), items=items)
    assert events == []


async def test_notes(call: Call, events: list[Event]) -> None:
    await call(Note(), text=" the door is green ")
    assert events == [NoteTaken(text="the door is green")]
    for arguments in ({}, {"text": ""}, {"text": "   "}, {"text": "x" * 3000}):
        with pytest.raises(ToolError):
            await call(Note(), **arguments)
    assert len(events) == 1


# --- chart, view_image ---

SERIES = [{"label": "a", "x": [1, 2, 3], "y": [3, 1, 2]}, {"label": "$b", "y": [1, None, 2]}]


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "line", "series": SERIES, "title": "Price in $ and $x", "log_y": True},
        {"kind": "scatter", "series": SERIES, "x_label": "x", "y_label": "y"},
        {"kind": "bar", "series": [{"x": ["p", "q"], "y": [1, 2]}, {"x": ["q", "r"], "y": [3, 4]}]},
        {"kind": "bar", "series": SERIES, "stacked": True},
        {"kind": "histogram", "series": [{"y": [1, 2, 2, 3]}], "bins": 3},
        {"kind": "pie", "series": [{"x": ["p", "q"], "y": [1, 3]}]},
        {"kind": "box", "series": SERIES},
        {"kind": "heatmap", "rows": [[1, 2], [3, 4]], "row_labels": ["p", "q"]},
    ],
    ids=lambda spec: str(spec["kind"]),
)
async def test_charts_are_pictures(call: Call, workspace: Path, spec: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    result = await call(Chart(), path="charts/c.png", **spec)
    assert result.files == ["charts/c.png"]
    from matplotlib.image import imread

    pixels = imread(io.BytesIO((workspace / "charts" / "c.png").read_bytes()))
    assert pixels.shape[:2] == (600, 960)
    assert pixels.std() > 0.01  # not blank


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "line"},
        {"kind": "cube", "series": SERIES},
        {"kind": "line", "series": [{"x": [1], "y": [1, 2]}]},
        {"kind": "line", "series": [{"x": [1, "a"], "y": [1, 2]}]},
        {"kind": "line", "series": [{"y": ["one"]}]},
        {"kind": "line", "series": [{"y": []}]},
        {"kind": "pie", "series": [{"y": [-1, 2]}]},
        {"kind": "pie", "series": [{"y": [0, 0]}]},
        {"kind": "heatmap"},
        {"kind": "heatmap", "rows": [[1, 2], [3]]},
        {"kind": "heatmap", "rows": [[1, 2]], "row_labels": ["a", "b"]},
        {"kind": "line", "series": SERIES, "path": "chart.svg"},
        {"kind": "line", "series": SERIES, "path": "../chart.png"},
        {"kind": "line", "series": SERIES, "code": "import os"},
    ],
)
async def test_a_bad_chart_writes_nothing(
    call: Call, workspace: Path, spec: dict[str, Any]
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ToolError):
        await call(Chart(), **{"path": "chart.png", **spec})
    assert list(workspace.iterdir()) == []


_NOT_SHOWN = ("b.png", "c.png", "d.png", "e.png", "f.png", ".")


async def test_view_image(call: Call, workspace: Path) -> None:
    data = png()
    (workspace / "a.dat").write_bytes(data)
    result = await call(ViewImage(), path="a.dat")
    assert isinstance(result.content, list)
    assert result.content[0]["text"] == f"a.dat, PNG, 56 x 28, {len(data)} bytes"
    assert result.content[1] == image_part(data, name="a.dat")
    (workspace / "b.png").write_text("<svg onload=alert(1)>")
    (workspace / "c.png").write_bytes(data + bytes(21 << 20))
    (workspace / "f.png").write_bytes(data[:-30])
    (workspace / "d.png").symlink_to("/usr/share/pixmaps/debian-logo.png")
    for arguments in ({}, *({"path": path} for path in _NOT_SHOWN)):
        with pytest.raises(ToolError):
            await call(ViewImage(), **arguments)


# --- by name ---


def names(tools: list[Tool]) -> list[str]:
    return [tool.name for tool in tools]


def test_tools_by_name() -> None:
    assert names(tools_by_name("search,fetch, python")) == ["search", "fetch", "python"]
    assert names(tools_by_name("web,fetch")) == ["search", "fetch"]
    assert names(tools_by_name("none")) == []
    assert names(load_tools(["files", "bash"])) == [*SETS["files"], "bash"]
    assert "bash" not in names(default_tools(without=["bash"]))
    assert "browse" not in names(default_tools())
    with pytest.raises(UsageError, match="'serach'"):
        tools_by_name("serach")


def test_every_tool_declares_itself_well() -> None:
    tools = load_tools(["all"])
    assert names(tools) == list(BUILTIN)
    registry = ToolRegistry(tools)  # checks every schema
    for each in tools:
        assert isinstance(each, Tool)
        assert 40 < len(each.description) < 700, each.name
        assert each.parameters["additionalProperties"] is False, each.name
        with pytest.raises(ToolError):
            registry.parse_arguments(each.name, '{"no such argument": 1}')
