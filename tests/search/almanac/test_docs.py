"""The snippets of docs/almanac.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "almanac.md"


def test_snippets() -> None:
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert found
    for snippet in found:
        exec(compile(snippet, PAGE.name, "exec"), {})
