"""No path leads out of the workspace: dots, absolute paths, links, swaps, pipes, devices."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.workspace.workspace import Workspace, _own_interpreter
from perilune.errors import ToolError


@pytest.fixture
def folder(workspace: Path) -> Workspace:
    (workspace.parent / "secret.txt").write_text("secret")
    (workspace / "inner").mkdir()
    (workspace / "inner" / "file.txt").write_text("inner")
    return Workspace(workspace)


OUTSIDE = [
    "..",
    "../secret.txt",
    "inner/../../secret.txt",
    "./../secret.txt",
    "/etc/passwd",
    "/",
    "/workspace/../secret.txt",
    "/workspace2/x",
    "//etc/passwd",
    "inner//..//..//secret.txt",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_lead_out_are_refused(folder: Workspace, path: str) -> None:
    for attempt in (
        lambda: folder.read_bytes(path, most=100),
        lambda: folder.write_bytes(path, b"x"),
        lambda: folder.listing(path),
        lambda: list(folder.files(path)),
        lambda: folder.remove(path),
        lambda: folder.relative(path),
    ):
        with pytest.raises(ToolError):
            attempt()
    assert not folder.exists(path)
    assert (folder.root.parent / "secret.txt").read_text() == "secret"


LINKS = {
    "absolute": "/etc/passwd",
    "up": "../secret.txt",
    "up from within": "inner/../../secret.txt",
    "folder": "..",
    "root": "/",
    "home": str(Path.home()),
    "through proc": "/proc/self/root/etc/passwd",
}


@pytest.mark.parametrize("target", LINKS.values(), ids=LINKS)
def test_links_that_lead_out_are_refused(folder: Workspace, target: str) -> None:
    (folder.root / "link").symlink_to(target)
    for path in ("link", "link/secret.txt", "link/etc/passwd", "inner/../link"):
        with pytest.raises(ToolError):
            folder.read_bytes(path, most=10_000)
        with pytest.raises(ToolError):
            folder.write_bytes(path, b"x")
    assert (folder.root.parent / "secret.txt").read_text() == "secret"


def test_links_that_stay_inside_are_followed(folder: Workspace) -> None:
    (folder.root / "short").symlink_to("inner/file.txt")
    (folder.root / "inner" / "up").symlink_to("../inner")
    (folder.root / "shell").symlink_to("/workspace/inner/file.txt")
    (folder.root / "whole").symlink_to(folder.root / "inner")
    for path in ("short", "inner/up/up/file.txt", "shell", "whole/file.txt"):
        assert folder.read_text(path) == "inner"
    folder.write_bytes("short", b"changed")
    assert (folder.root / "short").is_symlink()
    assert folder.read_text("inner/file.txt") == "changed"


def test_links_in_a_circle_end(folder: Workspace) -> None:
    (folder.root / "a").symlink_to("b")
    (folder.root / "b").symlink_to("a")
    with pytest.raises(ToolError, match="too many"):
        folder.read_text("a")


def test_a_link_is_not_followed_when_folders_are_searched(folder: Workspace) -> None:
    (folder.root / "out").symlink_to(folder.root.parent)
    (folder.root / "file").symlink_to(folder.root.parent / "secret.txt")
    assert [found.path for found in folder.files()] == ["inner/file.txt"]


def test_swapping_a_folder_for_a_link_gains_nothing(folder: Workspace) -> None:
    """A thread swaps a folder for a link to the outside as fast as it can while we write."""
    outside = folder.root.parent / "outside"
    outside.mkdir()
    swapped, real, stop = folder.root / "swap", folder.root / "real", threading.Event()
    swapped.mkdir()

    def swap() -> None:
        while not stop.is_set():
            try:
                swapped.rename(real)
                swapped.symlink_to(outside)
                swapped.unlink()
                real.rename(swapped)
            except OSError:
                pass

    thread = threading.Thread(target=swap)
    thread.start()
    written = 0
    try:
        for number in range(1500):
            try:
                folder.write_bytes(f"swap/{number % 7}.txt", b"x")
                written += 1
            except (ToolError, OSError):
                pass
    finally:
        stop.set()
        thread.join()
    assert written
    assert list(outside.iterdir()) == []


def test_pipes_and_devices_are_refused_at_once(folder: Workspace) -> None:
    os.mkfifo(folder.root / "pipe")
    with pytest.raises(ToolError, match="not a regular file"):
        folder.read_text("pipe")
    with pytest.raises(ToolError, match="not a regular file"):
        folder.write_bytes("pipe", b"x")
    assert [found.path for found in folder.files()] == ["inner/file.txt"]


def test_absolute_paths_of_the_workspace_are_its_own(folder: Workspace) -> None:
    assert folder.read_text("/workspace/inner/file.txt") == "inner"
    assert folder.read_text(f"{folder.root}/inner/file.txt") == "inner"
    assert folder.relative("/workspace") == "."
    assert folder.listing("/workspace") == ["inner/"]


def test_writing_keeps_mode_and_makes_folders(folder: Workspace) -> None:
    script = folder.root / "script.sh"
    script.write_text("old")
    script.chmod(0o755)
    folder.write_bytes("script.sh", b"new")
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert folder.write_bytes("a/b/../c/./new.txt", b"x") == "a/c/new.txt"
    assert (folder.root / "a" / "c" / "new.txt").read_text() == "x"
    assert not list(folder.root.rglob(".*"))


def test_a_failed_write_leaves_the_old_file(folder: Workspace) -> None:
    path = folder.root / "inner" / "file.txt"
    with pytest.raises(ToolError):
        folder.write_bytes("inner", b"a folder is in the way")
    with pytest.raises(ToolError):
        folder.write_bytes("inner/file.txt/below", b"x")
    with pytest.raises(ToolError):
        folder.write_bytes("x" * 300, b"x")
    assert path.read_text() == "inner"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("has_nameless_files", [True, False])
def test_a_file_is_replaced_in_one_move(
    folder: Workspace, monkeypatch: pytest.MonkeyPatch, has_nameless_files: bool
) -> None:
    """Killed while it writes, it leaves no draft, where the file system has nameless files."""
    seen: list[list[str]] = []
    change_mode = os.fchmod

    def look(descriptor: int, mode: int) -> None:
        seen.append(sorted(path.name for path in (folder.root / "inner").iterdir()))
        assert (folder.root / "inner" / "file.txt").read_text() == "inner"
        change_mode(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", look)
    if not has_nameless_files:
        monkeypatch.setattr("perilune.agent.workspace.workspace._nameless", lambda folder: None)
    folder.write_bytes("inner/file.txt", b"new")
    assert (folder.root / "inner" / "file.txt").read_bytes() == b"new"
    assert [path.name for path in (folder.root / "inner").iterdir()] == ["file.txt"]
    drafts = len(seen[0]) - 1
    assert drafts == (0 if has_nameless_files else 1)


def test_as_root_new_files_belong_to_the_folders_owner(folder: Workspace) -> None:
    os.chown(folder.root, 12345, 12345)
    folder.write_bytes("new/file.txt", b"x")
    for path in ("new", "new/file.txt"):
        assert (folder.root / path).stat().st_uid == 12345


def test_our_own_interpreter_is_not_written(
    folder: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = folder.root / ".venv"
    (environment / "lib").mkdir(parents=True)
    (folder.root / "link").symlink_to(".venv/lib")
    monkeypatch.setattr(sys, "prefix", str(environment))
    _own_interpreter.cache_clear()
    try:
        for path in (".venv/x.pth", ".venv/lib/x.pth", "link/x.pth", ".venv/new/x.pth"):
            with pytest.raises(ToolError, match="interpreter that runs the agent"):
                folder.write_bytes(path, b"evil")
    finally:
        _own_interpreter.cache_clear()
    assert list((environment / "lib").iterdir()) == []


def test_what_cannot_be_read_says_why(folder: Workspace) -> None:
    (folder.root / "binary").write_bytes(b"\x00\x01")
    (folder.root / "latin2").write_bytes(b"\x01\xff\xfe\x81")
    for path, why in {
        "absent": "there is no absent",
        "absent/x": "there is no",
        "inner": "is a folder",
        "inner/file.txt/x": "not a folder",
        "binary": "binary file",
        "latin2": "not UTF-8",
        "zero\0byte": "zero byte",
    }.items():
        with pytest.raises(ToolError, match=why):
            folder.read_text(path)
    with pytest.raises(ToolError, match="at most 3"):
        folder.read_bytes("inner/file.txt", most=3)


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/", "workspace", "~"]), max_size=8))
def test_relative_never_leaves(parts: list[str]) -> None:
    workspace = Workspace(Path("/nowhere/at/all"))
    path = "/".join(parts)
    try:
        relative = workspace.relative(path)
    except ToolError:
        return
    assert not relative.startswith(("/", ".."))
    assert ".." not in relative.split("/")
