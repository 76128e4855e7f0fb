"""`perilune corpus` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perilune.cli.corpus import app
from perilune.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "My Notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Lunar matters\nRegolith is dust.")
    (folder / "b.txt").write_bytes(b"binary\0")
    return folder


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_add_ls_search_rm(folder: Path) -> None:
    said = call("add", folder)
    assert "b.txt: binary data, no text" in said
    assert "my-notes: 1 added, 1 not readable" in said
    assert "my-notes: 1 unchanged" in call("add", folder)
    listed = call("ls").splitlines()
    assert listed[0].startswith("almanac ")
    assert listed[1].startswith("my-notes")
    assert str(folder) in listed[1]
    assert "corpus:my-notes/a.md" in call("search", "regolith", "dust")
    assert "almanac:country/chad" in call("search", "Chad", "area", "--name", "almanac")
    assert "nothing found" in call("search", "zzzzqqq", "--name", "my-notes", code=1)
    call("rm", "my-notes")
    assert "my-notes" not in call("ls")


def test_json(folder: Path) -> None:
    report = json.loads(call("add", folder, "--name", "n", "--json"))
    assert report["added"] == 1
    assert report["problems"] == [{"path": "b.txt", "problem": "binary data, no text"}]
    assert [each["name"] for each in json.loads(call("ls", "--json"))] == ["almanac", "n"]
    hits = json.loads(call("search", "regolith", "--name", "n", "--json"))
    assert [hit["url"] for hit in hits] == ["corpus:n/a.md"]


def test_an_empty_folder_and_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no text, Markdown, HTML or PDF in it" in call("add", tmp_path / "empty")
    with pytest.raises(UsageError, match="there is no corpus"):
        call("rm", "absent")
    with pytest.raises(UsageError, match="there is no corpus"):
        call("search", "x", "--name", "absent")
