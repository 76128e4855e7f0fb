"""The Python of docs/models.md and docs/vision.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perilune.cli.models import new
from perilune.config import Family

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "prints"), [("models.md", True), ("vision.md", False)])
def test_the_snippets_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, prints: bool
) -> None:
    page = DOCS / name
    new(tmp_path / "tiny", like=Family.K25)
    capsys.readouterr()
    snippets = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(page), "exec"), {"folder": tmp_path / "tiny"})
    assert bool(capsys.readouterr().out) == prints
