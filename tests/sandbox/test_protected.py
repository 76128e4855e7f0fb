"""The table of files that run by themselves: in the docs, for file tools, and for the asking."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.sandbox.protected import ENVIRONMENT_VARIABLE, TABLE, asked_about, row_of

DOCS = Path(__file__).parents[2] / "docs" / "sandbox.md"


def test_the_table_is_the_one_in_the_docs() -> None:
    lines = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| ([a-z-]+) \|", DOCS.read_text(), re.MULTILINE)
    shown = {name: (re.findall("`([^`]+)`", paths), rule) for name, paths, rule in lines}
    assert {row.name: (list(row.paths), row.rule) for row in TABLE} == {
        name: (paths if TABLE[[r.name for r in TABLE].index(name)].paths else [], rule)
        for name, (paths, rule) in shown.items()
    }
    assert ENVIRONMENT_VARIABLE in DOCS.read_text()


@pytest.fixture
def files(tmp_path: Path) -> Workspace:
    for folder in (".git/hooks", ".git/objects", ".git/refs", "bare/hooks", "bare/objects"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".git" / "config").write_text("mine")
    (tmp_path / "bare" / "refs").mkdir()
    (tmp_path / "bare" / "HEAD").write_text("x")
    (tmp_path / "to-git").symlink_to(".git")
    (tmp_path / "to-hooks").symlink_to(".git/hooks")
    (tmp_path / "to-config").symlink_to(".git/config")
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "up").symlink_to("../.git")
    (tmp_path / ".vscode").mkdir()
    (tmp_path / "editor").symlink_to(".vscode")
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".git/hooks/pre-commit", ".GIT/config", "x/../.git/config", ".git",
        "nested/.git/config", "nested/.git", "to-git/config", "to-hooks/pre-commit", "to-config",
        "around/up/config", "around/up/hooks/x", "/workspace/.git/config", "bare/config",
        "bare/hooks/post-update", "bare/commondir", ".git/info/attributes", "to-git/new/config",
        "around/up/../.git/config",
    ],
)  # fmt: skip
def test_file_tools_write_nothing_that_git_obeys(files: Workspace, path: str) -> None:
    before = sorted(str(each) for each in files.root.rglob("*") if each.is_file())
    with pytest.raises(ToolError):
        files.write_bytes(path, b"x")
    assert (files.root / ".git" / "config").read_text() == "mine"
    assert sorted(str(each) for each in files.root.rglob("*") if each.is_file()) == before


def test_what_only_looks_like_it_is_free(files: Workspace) -> None:
    for path in ("config", "src/hooks/useState.ts", ".gitignore", ".gitattributes", "HEAD", "a.git",
                 "objects/config", ".github/workflows/ci.yml", "Makefile", ".env"):  # fmt: skip
        files.write_bytes(path, b"x")


def test_a_link_to_what_is_asked_about_is_refused(files: Workspace) -> None:
    files.write_bytes(".vscode/tasks.json", b"x")  # the person was asked: see act.py
    with pytest.raises(ToolError, match="by a link"):
        files.write_bytes("editor/tasks.json", b"y")
    assert (files.root / ".vscode" / "tasks.json").read_text() == "x"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (".vscode/tasks.json", "editor"), ("a/.idea/x.xml", "editor"),
        ("x.code-workspace", "editor"),

        (".mcp.json", "agents"), (".claude/settings.json", "agents"), (".envrc", "shell"),
        ("./.ENVRC", "shell"), (".husky/pre-commit", "hook-tools"), ("src/main.py", None),
        ("vscode/x", None), ("Makefile", None), (".git/config", None),
    ],
)  # fmt: skip
def test_what_is_asked_about(path: str, name: str | None) -> None:
    row = asked_about(path)
    assert (row.name if row is not None else None) == name


def test_rows_can_be_freed(monkeypatch: pytest.MonkeyPatch, files: Workspace) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "editor, git-hooks")
    assert asked_about(".vscode/tasks.json") is None
    assert asked_about(".mcp.json") is not None
    with pytest.raises(ToolError):
        files.write_bytes(".git/config", b"x")
    files.write_bytes(".git/hooks/pre-commit", b"x")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "all")
    files.write_bytes(".git/config", b"x")
    assert row_of([".git", "config"]) is not None
