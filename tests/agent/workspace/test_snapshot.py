"""Snapshots and undo: what the run changed goes back, nothing that anyone wrote is lost."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from perilune.agent.models.scripted import Call, Reply
from perilune.agent.tool import ToolContext, tool
from perilune.agent.workspace.manifest import SnapshotError
from perilune.agent.workspace.snapshot import SnapshotStore
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent


def tree(root: Path) -> dict[str, tuple]:
    """Everything that is there: kinds, contents, modes, link targets."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("dir", path.stat().st_mode)
        else:
            found[name] = ("file", path.read_bytes(), path.stat().st_mode)
    return found


@pytest.fixture
def store(home: Path) -> SnapshotStore:
    return SnapshotStore(home)


@pytest.fixture
def filled(workspace: Path) -> Path:
    (workspace / "src" / "deep").mkdir(parents=True)
    (workspace / "empty").mkdir()
    (workspace / "a.txt").write_text("a")
    (workspace / "src" / "b.py").write_text("b = 1\n")
    (workspace / "src" / "deep" / "c").write_bytes(bytes(range(256)))
    (workspace / "run.sh").write_text("#!/bin/sh\n")
    (workspace / "run.sh").chmod(0o755)
    (workspace / "link").symlink_to("a.txt")
    (workspace / "dangling").symlink_to("/nowhere/at/all")
    return workspace


def test_undo_brings_everything_back(store: SnapshotStore, filled: Path):
    before = tree(filled)
    taken = store.take(filled, "run")
    (filled / "a.txt").write_text("changed")
    (filled / "src" / "b.py").unlink()
    shutil.rmtree(filled / "src" / "deep")
    (filled / "empty").rmdir()
    (filled / "new" / "folder").mkdir(parents=True)
    (filled / "new" / "folder" / "file").write_text("new")
    (filled / "run.sh").chmod(0o644)
    (filled / "link").unlink()
    (filled / "link").write_text("now a file")
    changed = tree(filled)
    undone = store.undo(taken.id)
    assert tree(filled) == before
    assert "new/folder/file" in undone.removed
    assert "a.txt" in undone.restored
    assert undone.kept == []
    store.undo(undone.before)
    assert tree(filled) == changed, "an undo can be undone"


def test_random_changes_are_undone(store: SnapshotStore, filled: Path):
    """Whatever is done to the tree, undo restores it, and undo of undo restores that."""
    for seed in range(12):
        dice = random.Random(seed)
        before = tree(filled)
        taken = store.take(filled, "run")
        for _ in range(12):
            _change(dice, filled)
        changed = tree(filled)
        undone = store.undo(taken.id)
        assert tree(filled) == before, seed
        store.undo(undone.before)
        assert tree(filled) == changed, seed


def _change(dice: random.Random, root: Path) -> None:
    paths = sorted(root.rglob("*"))
    path = dice.choice(paths) if paths else root / "x"
    match dice.randrange(5):
        case 0 if path.is_file() and not path.is_symlink():
            path.write_text(str(dice.random()))
        case 1 if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        case 2 if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
        case 3:
            folder = path if path.is_dir() and not path.is_symlink() else path.parent
            new = folder / f"n{dice.randrange(5)}"
            if not new.exists():
                new.mkdir()
        case _ if path.is_file() and not path.is_symlink():
            path.unlink()
            path.mkdir()
            (path / "inside").write_text("x")


def test_what_was_changed_after_the_run_is_kept(store: SnapshotStore, filled: Path):
    before = store.take(filled, "run")
    (filled / "a.txt").write_text("by the run")
    (filled / "made.txt").write_text("by the run")
    (filled / "src" / "b.py").write_text("by the run")
    after = store.take(filled, "run-after")
    (filled / "a.txt").write_text("by the user")
    (filled / "mine.txt").write_text("by the user")
    undone = store.undo(before.id, after.id)
    assert undone.kept == ["a.txt", "mine.txt"]
    assert (filled / "a.txt").read_text() == "by the user"
    assert (filled / "mine.txt").read_text() == "by the user"
    assert (filled / "src" / "b.py").read_text() == "b = 1\n"
    assert not (filled / "made.txt").exists()
    forced = store.undo(before.id, after.id, force=True)
    assert (filled / "a.txt").read_text() == "a"
    assert not (filled / "mine.txt").exists()
    store.undo(forced.before)
    assert (filled / "mine.txt").read_text() == "by the user"


def test_a_kept_file_keeps_its_folder(store: SnapshotStore, filled: Path):
    before = store.take(filled, "run")
    (filled / "made").mkdir()
    after = store.take(filled, "run-after")
    (filled / "made" / "mine").write_text("by the user")
    undone = store.undo(before.id, after.id)
    assert (filled / "made" / "mine").read_text() == "by the user"
    assert "made" not in undone.removed


def test_a_folder_that_became_a_link_leads_nowhere(store: SnapshotStore, filled: Path, tmp_path):
    """A run that swaps a folder for a link must not make undo write outside of the workspace."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.py").write_text("not yours")
    before = store.take(filled, "run")
    shutil.rmtree(filled / "src")
    (filled / "src").symlink_to(outside)
    after = store.take(filled, "run-after")
    (filled / "src").unlink()
    (filled / "src").symlink_to(outside, target_is_directory=True)
    store.undo(before.id, after.id)
    assert (outside / "b.py").read_text() == "not yours"
    assert (filled / "src" / "b.py").read_text() == "b = 1\n"
    assert not (filled / "src").is_symlink()


def test_a_file_is_stored_once(store: SnapshotStore, filled: Path, home: Path):
    for i in range(5):
        (filled / f"copy{i}").write_text("the same words")
    store.take(filled, "one")
    count = sum(path.is_file() for path in (home / "snapshots" / "objects").rglob("*"))
    store.take(filled, "two")
    assert sum(path.is_file() for path in (home / "snapshots" / "objects").rglob("*")) == count
    assert count == 5


def test_a_change_with_the_same_size_and_time_is_seen(store: SnapshotStore, workspace: Path):
    path = workspace / "f"
    path.write_text("aaaa")
    status = path.stat()
    one = store.take(workspace, "one")
    path.write_text("bbbb")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    two = store.take(workspace, "two")
    assert one.entries["f"].content != two.entries["f"].content


def test_limits_are_refused_before_anything_is_lost(home: Path, filled: Path):
    for limits in ({"most_bytes": 10}, {"most_files": 3}):
        with pytest.raises(SnapshotError, match="too large"):
            SnapshotStore(home, **limits).take(filled, "run")


def test_a_full_disk_is_no_unreadable_file(store: SnapshotStore, filled: Path, monkeypatch):
    """What cannot be stored must stop the run; it must not be left out in silence."""

    def full(source: int, target: int) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("perilune.agent.workspace.snapshot._copy", full)
    with pytest.raises(SnapshotError, match="No space left"):
        store.take(filled, "run")


def test_odd_names_and_files(store: SnapshotStore, workspace: Path):
    odd = os.fsdecode(b"not-utf8-\xff")
    (workspace / odd).write_text("x")
    (workspace / "new\nline").write_text("y")
    os.mkfifo(workspace / "pipe")
    taken = store.take(workspace, "run")
    assert odd in taken.entries
    assert "pipe" not in taken.entries
    (workspace / odd).unlink()
    store.undo(taken.id)
    assert (workspace / odd).read_text() == "x"


def test_our_own_store_inside_the_workspace_is_left_out(workspace: Path):
    store = SnapshotStore(workspace / ".perilune")
    (workspace / "a").write_text("a")
    store.take(workspace, "one")
    assert list(store.take(workspace, "two").entries) == ["a"]


def test_names_cannot_leave_the_store(store: SnapshotStore):
    for name in ("../x", ".hidden", "missing"):
        with pytest.raises(SnapshotError):
            store.load(name)


def test_forgetting_frees_what_nobody_needs(store: SnapshotStore, workspace: Path, home: Path):
    (workspace / "shared").write_text("shared")
    one = store.take(workspace, "one")
    (workspace / "only").write_text("only in two")
    store.take(workspace, "two")
    (workspace / "only").unlink()
    store.take(workspace, "three")
    objects = home / "snapshots" / "objects"
    for path in objects.rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    assert store.forget("two") == len("only in two")
    (workspace / "shared").write_text("changed")
    store.undo(one.id)
    assert (workspace / "shared").read_text() == "shared"


# --- through a run --------------------------------------------------------------------------------


@tool()
def wreck(context: ToolContext) -> str:
    """Delete everything."""
    for path in context.workspace.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return "all gone"


def test_a_run_that_deletes_everything_is_undone(make_agent: MakeAgent, filled: Path, home: Path):
    before = tree(filled)
    agent = make_agent([Reply(calls=[Call("wreck", {})]), Reply("oops")], [wreck])
    result = agent.run("tidy up")
    assert list(filled.iterdir()) == []

    async def undo():
        async with agent.session(resume=result.run) as session:
            return await session.undo()

    import asyncio

    undone = asyncio.run(undo())
    assert tree(filled) == before
    assert undone.kept == []


def test_reading_takes_no_snapshot(make_agent: MakeAgent, home: Path):
    agent = make_agent([Reply(calls=[Call("read_log", {})]), Reply("x")], [tools.read_log])
    agent.run("t")
    assert not (home / "snapshots").exists()


def test_a_workspace_too_large_for_undo_stops_before_the_write(
    make_agent: MakeAgent, workspace: Path, monkeypatch
):
    agent = make_agent(
        [Reply(calls=[Call("append_line", {"line": "x"})]), Reply("x")], [tools.append_line]
    )
    (workspace / "big").write_bytes(b"x" * 2000)

    class Small(SnapshotStore):
        def __init__(self, home: Path) -> None:
            super().__init__(home, most_bytes=1000)

    monkeypatch.setattr("perilune.agent.loop.session.SnapshotStore", Small)
    result = agent.run("t")
    assert result.reason == "snapshot"
    assert "--no-snapshot" in result.detail
    assert not (workspace / "log.txt").exists()
    agent.snapshot = False
    assert agent.run(resume=result.run).ok
