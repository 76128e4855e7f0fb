"""Every test that `docs/compatibility.md` names exists, and every row names one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_row_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| ---", "| what comes"))]
    assert len(rows) > 60
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            text = (ROOT / file).read_text("utf-8")
            assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), (file, test)
