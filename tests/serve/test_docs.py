"""The tables of docs/api.md are current, its Python runs, and the pages name tests that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from perilune.chat.format import ChatFormat
from perilune.engine.async_engine import AsyncEngine

from .scripted import Scripted, Turn, scripted_engine
from .servers import socket_server

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


def test_the_tables_are_current() -> None:
    path = ROOT / "scripts" / "api_tables.py"
    spec = importlib.util.spec_from_file_location("api_tables", path)
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.renew(PAGE) == PAGE, "run scripts/api_tables.py"
    assert set(re.findall(r"<!-- table: ([a-z-]+) -->", PAGE)) == set(script.tables())


def test_the_snippet_runs(chat_format: ChatFormat, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    script = Scripted([Turn("Far.", reasoning="Hm.")])
    with socket_server(lambda: AsyncEngine(scripted_engine(script, chat_format))) as url:
        exec(snippet, {"base_url": f"{url}/v1", "model": "tiny"})
    assert capsys.readouterr().out == "Far."


def test_the_named_tests_exist() -> None:
    for name in re.findall(r"`((?:tests/cli/)?(?:test_\w+|contract)\.py)`", PAGE):
        assert (ROOT / "tests" / "serve" / name).exists() or (ROOT / name).exists(), name


def test_every_rule_is_held_by_tests_that_exist() -> None:
    page = (ROOT / "docs" / "api-tests.md").read_text("utf-8")
    rules = page.partition("## The long runs")[0]
    rows = [line for line in rules.splitlines() if line.startswith("| ")]
    assert len(rows) > 50
    for row in rows:
        if "| held by |" in row or row.startswith("| ---"):
            continue
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        sources = []
        for file, test in named:
            text = (ROOT / file).read_text("utf-8")
            found = re.search(rf"^(async )?def {test}\(", text, re.MULTILINE)
            assert found, (file, test)
            sources.append(text[found.start() :].split("\n\n\n")[0])
        if "| S W |" in row:
            assert any("stream" in source for source in sources), row
