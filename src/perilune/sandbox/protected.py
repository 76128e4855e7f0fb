"""What runs as the user once the agent has written it: the table of such files, as data.

"read-only": neither commands nor file tools may change it. "asked": a file tool asks a person (or
an `--allow` rule) first, and what a command changes there is named in its output, for commands such
as `git checkout` change whole trees. "free": a part of the project that runs only when someone runs
the project; see its diff.
`docs/sandbox.md` shows the table; a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal

Rule = Literal["read-only", "asked", "free"]

ENVIRONMENT_VARIABLE = "PERILUNE_UNPROTECTED"
"""Names of rows, comma-separated, that are to be free."""


@dataclass(frozen=True, slots=True)
class Row:
    """`paths` are globs for the end of a path, a folder stands for all in it."""

    name: str
    paths: tuple[str, ...]
    rule: Rule
    runs: str


TABLE: tuple[Row, ...] = (
    Row("git-hooks", (".git/hooks",), "read-only", "any git command of yours"),
    Row(
        "git-config",
        (".git", ".git/config", ".git/config.worktree", ".git/commondir"),
        "read-only",
        "any git command of yours: `core.fsmonitor`, `core.sshCommand`, filters, pagers, aliases",
    ),
    # By what it is and not by its name: see interpreter.py.
    Row("environment", (), "read-only", "Perilune itself, the next time it starts"),
    Row("editor", (".vscode", ".idea", ".zed", ".fleet", "*.code-workspace"), "asked",
        "your editor, when it opens the folder"),
    Row("container", (".devcontainer", ".devcontainer.json"), "asked",
        "your editor, when it opens the folder in a container"),
    Row("agents", (".mcp.json", ".claude", ".cursor", ".codex", ".kimi", ".gemini", ".windsurf"),
        "asked", "other agents, when they start in the folder"),
    Row("shell", (".envrc", ".direnv", ".autoenv", ".mise.toml"), "asked",
        "direnv and its like, when your shell enters the folder"),
    Row("hook-tools", (".husky", ".githooks", "lefthook.yml", ".lefthook.yml",
        ".pre-commit-config.yaml"), "asked", "git hooks that are installed, when you commit"),
    Row("build", ("Makefile", "package.json", "pyproject.toml", "setup.py", "conftest.py",
        "build.rs", "CMakeLists.txt", "noxfile.py", "tox.ini", "justfile"), "free",
        "you, by building or testing the project"),
    Row("ci", (".github/workflows", ".gitlab-ci.yml", ".circleci", "Jenkinsfile"), "free",
        "the continuous integration, once you push"),
)  # fmt: skip


@cache
def _unprotected(value: str) -> frozenset[str]:
    return frozenset(name.strip() for name in value.split(",") if name.strip())


def rule_of(row: Row) -> Rule:
    """The rule of a row now; `PERILUNE_UNPROTECTED` frees some or, as `all`, all of them.

    The environment that Perilune runs from stays read-only.
    """
    loosened = _unprotected(os.environ.get(ENVIRONMENT_VARIABLE, ""))
    if row.name != "environment" and loosened & {row.name, "all"}:
        return "free"
    return row.rule


def is_protected(name: str) -> bool:
    """Whether the row of this name is read-only now."""
    return any(row.name == name and rule_of(row) == "read-only" for row in TABLE)


def row_of(parts: Sequence[str]) -> Row | None:
    """The row that a path below the workspace falls under, whatever the case of its letters.

    Whatever is in a `.git` is git's to write: a file tool has nothing to change there.
    """
    low = [part.casefold().rstrip(". ") for part in parts]
    for row in TABLE:
        for pattern in row.paths:
            wanted = pattern.casefold().split("/")
            for start in range(len(low) - len(wanted) + 1):
                if all(
                    fnmatchcase(part, glob) for part, glob in zip(low[start:], wanted, strict=False)
                ):
                    return row
    return None


def asked_about(path: str) -> Row | None:
    """The row of a path that a file tool must ask about; None for any other."""
    row = row_of([part for part in path.split("/") if part not in ("", ".")])
    return row if row is not None and rule_of(row) == "asked" else None
