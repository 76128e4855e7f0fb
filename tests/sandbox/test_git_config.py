"""The reader of git's configuration sees what git sees: compared with git itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.sandbox.git_config import (
    UNREADABLE,
    dangerous_settings,
    harmless_text,
    quoted,
    read_settings,
)

PIECES = st.sampled_from(
    ["[core]", "[alias]", '[filter "a b"]', '[Remote "x.Y"]', "[a.b]", "[ core ]", "\n", " ", "\t",
     "fsmonitor", "= x", "=", "x = y", '"', "\\", "\\\n", "\\n", "#", ";", "pager = cat", "name",
     "[core] editor = vi", "]", "[", '"q # r"', "clean = sh -c \"x\"", "\r\n", "url = ext::sh", "é"]
)  # fmt: skip


def git_says(folder: Path, text: str) -> list[tuple[str, str]] | None:
    """The settings of a file as git lists them; None when it refuses the file."""
    (folder / "config").write_text(text, "utf-8", newline="")
    done = subprocess.run(
        ["git", "config", "--no-includes", "-z", "--file", str(folder / "config"), "--list"],
        capture_output=True, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )  # fmt: skip
    if done.returncode:
        return None
    items = done.stdout.decode().split("\0")[:-1]
    return [(name, value if mark else "true") for name, mark, value in
            (item.partition("\n") for item in items)]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(PIECES, max_size=14))
def test_it_reads_as_git_does_or_calls_it_unreadable(
    pieces: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "".join(pieces)
    theirs = git_says(tmp_path_factory.mktemp("config"), text)
    ours = read_settings(text)
    if theirs is None:  # git obeys nothing of it; that we say more does no harm
        return
    if UNREADABLE not in ours:
        # Some versions of git make a blank of a tab.
        blank = [(name, value.replace("\t", " ")) for name, value in ours]
        assert blank == [(name, value.replace("\t", " ")) for name, value in theirs]
    rest = git_says(tmp_path_factory.mktemp("harmless"), harmless_text(text))
    assert rest is not None
    assert dangerous_settings(harmless_text(text)) == []


@given(value=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))))
def test_a_quoted_value_is_read_back(value: str) -> None:
    assert read_settings(f"[user]\n\tname = {quoted(value)}\n") == [
        ("user.name", value.strip())
    ] or (value != value.strip())


@pytest.mark.parametrize(
    "text",
    [
        "[core] fsmonitor = x", "[CORE]\nFsMonitor=x", '[alias]\n\tst = "!x"', "[include]\npath=x",
        '[includeIf "gitdir:/"]\npath = x', "[core]\nhooksPath = x", '[filter "l"]\nprocess = x',
        '[diff "l"]\ntextconv = x', "[gpg]\nprogram = x", '[remote "o"]\nuploadpack = x',
        "[credential]\nhelper = x", '[submodule "s"]\nupdate = !x', "[gc]\nrecentObjectsHook = x",
        '[remote "o"]\nurl = ext::sh', "[core]\nworktree = /", "[uploadpack]\npackObjectsHook = x",
        "[protocol]\nallow = always", "garbage", "[core", '[core]\nx = "', "[sequence]\neditor=x",
        '[merge "m"]\ndriver = x', "[interactive]\ndiffFilter = x",
        "[core]\nalternateRefsCommand=x",
    ],
)  # fmt: skip
def test_what_names_a_program_is_dangerous(text: str) -> None:
    assert dangerous_settings(text)


def test_what_git_writes_by_itself_is_not(tmp_path: Path) -> None:
    quiet = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    for words in (["init", "-q", "."], ["remote", "add", "o", "https://example.org/x"],
                  ["config", "branch.main.merge", "refs/heads/main"]):  # fmt: skip
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, env=quiet)
    assert dangerous_settings((tmp_path / ".git" / "config").read_text()) == []
