"""Undo when others wrote, too: what the run changed goes back, what they wrote is not lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from perilune.agent.models.scripted import Call, Reply
from perilune.agent.tool import ToolContext, tool
from perilune.agent.workspace.change_log import ChangeLog, read_ledger
from perilune.agent.workspace.snapshot import SnapshotStore, Undone
from perilune.agent.workspace.undo import go_back, undo_run
from tests.agent.conftest import MakeAgent
from tests.agent.workspace.test_snapshot import tree

RUN = "20260101-run"


class Scene:
    """A run that writes, and a user who writes between its calls."""

    def __init__(self, store: SnapshotStore, root: Path) -> None:
        self.store, self.root = store, root
        self.before = store.take(root, RUN).id
        self.log = ChangeLog(store, RUN, root, self.before)

    def run(self, *acts) -> None:
        """One call."""
        self.log.begin()
        for act in acts:
            act()
        self.log.end()

    def undo(self, choice: str = "mine", *, dry: bool = False) -> Undone:
        return undo_run(self.store, RUN, self.before, choose=lambda conflict: choice, dry=dry)

    def text(self, name: str) -> str | None:
        path = self.root / name
        return path.read_text() if path.is_file() else None


def writing(path: Path, text: str):
    return lambda: path.write_text(text)


@pytest.fixture
def store(home: Path) -> SnapshotStore:
    return SnapshotStore(home)


@pytest.fixture
def scene(store: SnapshotStore, workspace: Path) -> Scene:
    for name in ("a.txt", "b.txt"):
        (workspace / name).write_text(f"{name} before\n")
    return Scene(store, workspace)


def test_a_file_that_the_user_changed_during_the_run_stays_the_users(scene: Scene):
    """It was restored in silence."""
    a, b = scene.root / "a.txt", scene.root / "b.txt"
    scene.run(writing(b, "by the run\n"))
    a.write_text("by the user\n")
    scene.run(writing(b, "by the run again\n"))
    undone = scene.undo()
    assert scene.text("a.txt") == "by the user\n"
    assert scene.text("b.txt") == "b.txt before\n"
    assert (undone.others, undone.kept, undone.restored) == (["a.txt"], [], ["b.txt"])


@pytest.mark.parametrize(
    ("choice", "there", "beside"),
    [("mine", "mixed\n", None), ("both", "a.txt before\n", "mixed\n"),
     ("theirs", "a.txt before\n", None)],
)  # fmt: skip
def test_a_file_that_both_changed_is_a_conflict(scene: Scene, choice: str, there: str, beside):
    scene.run(writing(scene.root / "a.txt", "by the run\n"))
    (scene.root / "a.txt").write_text("mixed\n")
    undone = scene.undo(choice)
    assert scene.text("a.txt") == there
    assert scene.text("a.txt.yours") == beside
    assert undone.kept == ["a.txt"] * (choice == "mine")
    if choice == "mine":
        assert undone.why == {"a.txt": "it was changed after the run's last write"}
    if choice == "both":
        assert undone.copies == {"a.txt.yours": "a.txt"}
    go_back(scene.store, undone.before, choose=lambda conflict: "mine")
    assert scene.text("a.txt") == "mixed\n"


def test_a_version_that_the_run_wrote_over_comes_back(scene: Scene):
    """Changed by the user before the run's first write: that is what undo goes back to. Changed
    between two writes: it is laid beside."""
    a, b = scene.root / "a.txt", scene.root / "b.txt"
    scene.run(writing(b, "run 1\n"))
    a.write_text("the user's a\n")
    b.write_text("the user's b\n")
    scene.run(writing(a, "run 2\n"), writing(b, "run 3\n"))
    undone = scene.undo()
    assert scene.text("a.txt") == "the user's a\n"
    assert scene.text("b.txt") == "b.txt before\n"
    assert scene.text("b.txt.yours") == "the user's b\n"
    assert undone.copies == {"b.txt.yours": "b.txt"}


def test_the_users_first_version_survives_a_kept_conflict(scene: Scene):
    a = scene.root / "a.txt"
    a.write_text("user 1\n")
    scene.run(writing(a, "run\n"))
    a.write_text("user 2\n")
    scene.undo("mine")
    assert (scene.text("a.txt"), scene.text("a.txt.yours")) == ("user 2\n", "user 1\n")


SIBLINGS = {
    "created where the run deleted": (
        lambda root: (root / "a.txt").unlink(),
        lambda root: (root / "a.txt").write_text("new"),
        "made again",
    ),
    "deleted where the run changed": (
        lambda root: (root / "a.txt").write_text("run"),
        lambda root: (root / "a.txt").unlink(),
        "was deleted",
    ),
    "mode": (
        lambda root: (root / "a.txt").write_text("run"),
        lambda root: (root / "a.txt").chmod(0o755),
        "its mode",
    ),
    "symbolic link": (
        lambda root: ((root / "a.txt").unlink(), (root / "a.txt").symlink_to("b.txt")),
        lambda root: ((root / "a.txt").unlink(), (root / "a.txt").symlink_to("nowhere")),
        "was changed",
    ),
    "folder for a file": (
        lambda root: (root / "a.txt").write_text("run"),
        lambda root: ((root / "a.txt").unlink(), (root / "a.txt").mkdir()),
        "was changed",
    ),
    "binary": (
        lambda root: (root / "a.txt").write_bytes(b"\0run"),
        lambda root: (root / "a.txt").write_bytes(b"\0user\xff"),
        "was changed",
    ),
    "renamed after the run": (
        lambda root: (root / "a.txt").write_text("run"),
        lambda root: (root / "a.txt").rename(root / "c.txt"),
        "was deleted",
    ),
}


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("choice", ["mine", "both", "theirs"])
def test_siblings(name: str, choice: str, scene: Scene):
    by_run, by_user, why = SIBLINGS[name]
    scene.run(lambda: by_run(scene.root))
    by_user(scene.root)
    left = tree(scene.root)
    dry = scene.undo(choice, dry=True)
    assert tree(scene.root) == left, "--dry-run changes nothing"
    undone = scene.undo(choice)
    assert (dry.kept, dry.restored, dry.copies) == (undone.kept, undone.restored, undone.copies)
    if choice == "mine":
        assert tree(scene.root) == left
        assert why in undone.why["a.txt"]
        return
    assert scene.text("a.txt") == "a.txt before\n"
    if choice == "both" and name not in ("deleted where the run changed", "folder for a file",
                                         "renamed after the run"):  # fmt: skip
        assert list(undone.copies) == ["a.txt.yours"]
        copy = tree(scene.root)["a.txt.yours"]
        assert copy == left["a.txt"]
    if name == "renamed after the run":
        assert scene.text("c.txt") == "run"
    go_back(scene.store, undone.before)
    assert tree(scene.root) == left, "undo can be undone"


def test_a_folder_with_something_of_the_users_stays(scene: Scene):
    made = scene.root / "made"
    scene.run(made.mkdir, writing(made / "run.txt", "run"))
    (made / "mine.txt").write_text("user")
    undone = scene.undo()
    assert scene.text("made/mine.txt") == "user"
    assert not (made / "run.txt").exists()
    assert undone.removed == ["made/run.txt"]


def test_a_redo_does_not_write_over_what_came_after_the_undo(scene: Scene):
    scene.run(writing(scene.root / "a.txt", "run\n"), writing(scene.root / "b.txt", "run\n"))
    undone = scene.undo()
    (scene.root / "a.txt").write_text("user\n")
    redone = go_back(scene.store, undone.before)
    assert (scene.text("a.txt"), scene.text("b.txt")) == ("user\n", "run\n")
    assert redone.kept == ["a.txt"]


def test_a_cut_off_call_is_nobodys(scene: Scene):
    """After kill -9 in a call, the run's and the user's changes cannot be told apart."""
    scene.run(writing(scene.root / "a.txt", "run\n"))
    scene.log.begin()
    (scene.root / "b.txt").write_text("the run's, or not\n")
    undone = scene.undo()
    assert (undone.kept, undone.restored) == (["b.txt"], ["a.txt"])
    assert "cut off" in undone.why["b.txt"]
    assert scene.text("b.txt") == "the run's, or not\n"
    assert scene.undo("both").copies == {"b.txt.yours": "b.txt"}
    assert scene.text("b.txt") == "b.txt before\n"
    assert scene.text("b.txt.yours") == "the run's, or not\n"


@pytest.mark.parametrize(
    "seeds", [range(15), pytest.param(range(15, 300), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_random_interleavings_lose_nothing_of_the_users(
    store: SnapshotStore, tmp_path: Path, seeds: range
):
    """Each text that the user wrote, and that the user did not replace, is somewhere after an
    undo; what only the run touched is as before; what only the user touched is as the user left
    it."""
    for seed in seeds:
        dice = random.Random(seed)
        root = tmp_path / f"w{seed}"
        root.mkdir()
        names = ["a", "b", "c", "d/e"]
        (root / "d").mkdir()
        for name in names[: dice.randrange(5)]:
            (root / name).write_text(f"before {name}")
        before = {name: _text(root / name) for name in names}
        run = f"{RUN}{seed}"
        start = store.take(root, run).id
        log = ChangeLog(store, run, root, start)
        log.begin()
        log.end()
        last: dict[str, tuple[str, str]] = {}  # path -> who wrote last, and what
        alive: set[str] = set()
        touched: dict[str, set[str]] = {name: set() for name in names}
        for step in range(dice.randrange(1, 12)):
            who = dice.choice(["run", "user"])
            if who == "run":
                log.begin()
            for _ in range(dice.randrange(1, 3)):
                name = dice.choice(names)
                if who == "user" and last.get(name, ("", ""))[0] == "user":
                    alive.discard(last[name][1])
                if dice.random() < 0.25:
                    (root / name).unlink(missing_ok=True)
                    text = ""
                else:
                    text = f"{who} {step} {dice.random()}"
                    (root / name).write_text(text)
                    if who == "user":
                        alive.add(text)
                last[name] = (who, text)
                touched[name].add(who)
            if who == "run":
                log.end()
        left = {name: _text(root / name) for name in names}
        choice = dice.choice(["mine", "both"])
        undone = undo_run(store, run, start, choose=lambda conflict, choice=choice: choice)
        found = {_text(p) for p in root.rglob("*") if p.is_file()}
        assert alive <= found, (seed, choice, alive - found, undone)
        for name in names:
            if touched[name] == {"run"}:
                assert _text(root / name) == before[name], (seed, name)
            if touched[name] == {"user"}:
                assert _text(root / name) == left[name], (seed, name)
        for copy in undone.copies:
            assert (root / copy).is_file(), seed
        go_back(store, undone.before, run=run, before=start)
        assert {name: _text(root / name) for name in names} == left, seed


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def test_contents_of_a_log_are_not_forgotten(scene: Scene, home: Path, store: SnapshotStore):
    a = scene.root / "a.txt"
    scene.run(writing(a, "run 1\n"))
    a.write_text("the user's\n")
    scene.run(writing(a, "run 2\n"))
    for path in (home / "snapshots" / "objects").rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
    store.forget("another-run")
    scene.undo()
    assert scene.text("a.txt.yours") == "the user's\n"
    store.forget(RUN)
    assert read_ledger(store, RUN) is None


# --- through runs ---------------------------------------------------------------------------------


@tool()
def write_a(text: str, context: ToolContext) -> str:
    """Write a.txt."""
    (context.workspace / "a.txt").write_text(text)
    return "written"


def test_a_run_keeps_the_log(make_agent: MakeAgent, workspace: Path, home: Path):
    """The user writes while the model thinks."""
    (workspace / "a.txt").write_text("before")
    (workspace / "b.txt").write_text("before")
    tape = [
        Reply(calls=[Call("write_a", {"text": "run 1"})]),
        Reply(calls=[Call("write_a", {"text": "run 2"})]),
        Reply("done"),
    ]
    agent = make_agent(tape, [write_a])
    seen = 0

    def listen(record) -> None:
        nonlocal seen
        if record.event.__class__.__name__ == "AssistantMessage":
            seen += 1
            if seen == 2:
                (workspace / "a.txt").write_text("user")
                (workspace / "b.txt").write_text("user")

    agent.on_record = listen
    result = agent.run("t")

    async def undo():
        async with agent.session(resume=result.run) as session:
            return await session.undo()

    undone = asyncio.run(undo())
    assert (workspace / "a.txt").read_text() == "before"
    assert (workspace / "a.txt.yours").read_text() == "user"
    assert (workspace / "b.txt").read_text() == "user"
    assert undone.copies == {"a.txt.yours": "a.txt"}
    again = SnapshotStore(home)
    assert read_ledger(again, result.run) is not None
    shutil.rmtree(workspace)
    json.dumps(undone.copies)
