"""The snippets of docs/sandbox.md and docs/tools.md run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from perilune.sandbox import Sandbox

DOCS = Path(__file__).resolve().parents[3] / "docs"


def snippets(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", ["sandbox.md", "tools.md"])
def test_snippets(
    page: str, workspace: Path, opened_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = snippets(page)
    assert found
    monkeypatch.chdir(workspace)
    Path("work").mkdir()
    shutil.copy(Path(__file__).with_name("mcp_example.py"), "example_server.py")
    for snippet in found:
        names: dict[str, object] = {}
        exec(compile(snippet, page, "exec"), names)
        if "mcp" in names:
            assert "mcp_example_add" in names["names"]  # type: ignore[operator]
