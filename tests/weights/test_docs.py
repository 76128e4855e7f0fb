"""docs/checkpoints.md: its commands print what it says they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perilune.cli import convert, models
from perilune.config import Family
from perilune.formats import FORMATS
from perilune.weights.describe import describe
from perilune.weights.format_bytes import gigabytes
from perilune.weights.published_config import full_size

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def test_commands_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    steps = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.M) if step]
    assert len(steps) == 6
    for step in steps:
        command, _, expected = step.partition("\n")
        verb, *rest = shlex.split(command)
        if verb == "truncate":
            file = Path(rest[-1])
            file.write_bytes(file.read_bytes()[: int(rest[1])])
            continue
        app = {"models": models.app, "convert": convert.app}[rest[0]]
        result = CliRunner().invoke(app, rest[1:])
        assert result.stdout == expected, command


def test_full_sizes_of_the_page() -> None:
    page = PAGE.read_text("utf-8")
    rows = dict(re.findall(r"^\| (BF16|FP8|INT4|INT8) \|.*\| ([\d.]+ [TG]B) \|$", page, re.M))
    assert {name.lower() for name in rows} == FORMATS.keys()
    for name in rows:
        family = Family.K25 if name == "INT4" else Family.K2
        stored = describe(full_size(family, FORMATS[name.lower()])).stored
        value, unit = gigabytes(stored).split()
        assert rows[name] in (f"{value} {unit}", f"{float(value):.0f} {unit}")
