"""Root's workspace stays root's: behind every boundary, where it is mapped and where it is lent."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perilune.sandbox import Sandbox, open_sandbox
from perilune.sandbox.identity import DROPPED_UID, identity_for
from perilune.sandbox.lending import collect_loans, lend, why_lent
from perilune.sandbox.view import why_not_mapped
from tests.sandbox.conftest import LIMITS, opened

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's commands run as another")

OTHER = 12345


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container on overlayfs."""
    monkeypatch.setattr(
        "perilune.sandbox.lending.why_not_mapped", lambda workspace: "forced by the test"
    )


@pytest.fixture
def filled(workspace: Path) -> Path:
    """A workspace with something of everything."""
    (workspace / "folder").mkdir(0o750)
    (workspace / "folder" / "file").write_text("before")
    (workspace / "private").write_text("before")
    (workspace / "private").chmod(0o600)
    (workspace / "grouped").write_text("before")
    os.chown(workspace / "grouped", 0, OTHER)
    (workspace / "theirs").write_text("before")
    os.chown(workspace / "theirs", OTHER, OTHER)
    (workspace / "link").symlink_to("private")
    os.link(workspace / "private", workspace / "second name")
    workspace.chmod(0o700)
    return workspace


def owners(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Path -> user, group and mode of the folder and of everything in it."""
    paths = [folder, *folder.rglob("*")]
    states = [(str(path.relative_to(folder)), path.lstat()) for path in paths]
    return {name: (each.st_uid, each.st_gid, each.st_mode) for name, each in states}


CHANGES = """
set -e
echo after > folder/file; echo after > private; echo after > grouped
mkdir made; echo new > made/file; ln -s file made/link; ln folder/file made/hard
if echo x > theirs 2> /dev/null; then exit 9; fi
"""


def test_a_command_changes_no_owner_and_no_mode(sandbox: Sandbox, filled: Path) -> None:
    before = owners(filled)
    result = sandbox.run(["sh", "-c", CHANGES], workspace=filled)
    assert result.ok, result.stderr
    assert (filled / "folder" / "file").read_text() == "after\n"
    after = owners(filled)
    assert {name: after[name] for name in before} == before
    made = {name: state[:2] for name, state in after.items() if name not in before}
    assert made == dict.fromkeys(("made", "made/file", "made/link", "made/hard"), (0, 0))


def test_git_accepts_a_checkout_during_and_after_a_command(
    sandbox: Sandbox, workspace: Path
) -> None:
    def git(*arguments: str) -> str:
        line = ["git", "-C", str(workspace), *arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        return done.stdout + done.stderr

    git("init", "-q")
    (workspace / "new").write_text("x")
    process = sandbox.start(["sh", "-c", "touch ready; sleep 30"], workspace=workspace)
    while not (workspace / "ready").exists():
        time.sleep(0.02)
    assert git("status", "--short") == "?? new\n?? ready\n"
    process.kill()
    process.wait()
    assert git("status", "--short") == "?? new\n?? ready\n"


def test_files_written_from_outside_are_the_commands_too(sandbox: Sandbox, filled: Path) -> None:
    assert sandbox.run(["true"], workspace=filled).ok
    (filled / "later").write_text("before")
    assert sandbox.run(["sh", "-c", "echo after > later"], workspace=filled).ok
    assert (filled / "later").read_text() == "after\n"
    assert (filled / "later").stat().st_uid == 0


def test_a_workspace_that_only_root_can_reach(bubblewrap: Sandbox, filled: Path) -> None:
    filled.parent.chmod(0o700)
    before = owners(filled)
    result = bubblewrap.run(["sh", "-c", CHANGES], workspace=filled)
    assert result.ok, result.stderr
    assert {name: state for name, state in owners(filled).items() if name in before} == before


def test_a_workspace_in_the_folder_where_the_view_is_staged() -> None:
    folder = Path("/mnt/perilune-test-workspace")
    folder.mkdir()
    try:
        result = open_sandbox(limits=LIMITS).run(["touch", "made"], workspace=folder)
        assert result.ok, result.stderr
        assert (folder / "made").stat().st_uid == 0
    finally:
        (folder / "made").unlink(missing_ok=True)
        folder.rmdir()


def test_in_the_folder_of_another_user_commands_are_that_user(
    sandbox: Sandbox, filled: Path
) -> None:
    os.chown(filled, OTHER, OTHER)
    before = owners(filled)
    result = sandbox.run(["sh", "-c", "echo after > theirs; touch made"], workspace=filled)
    assert result.ok, result.stderr
    assert not sandbox.run(["sh", "-c", "echo after > private"], workspace=filled).ok
    after = owners(filled)
    assert after.pop("made")[:2] == (OTHER, OTHER)
    assert after == before


def test_nothing_stays_mounted(sandbox: Sandbox, filled: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    sandbox.run(["true"], workspace=filled)
    assert Path("/proc/self/mountinfo").read_text() == before


# --- what no command may write ---


def test_a_file_that_has_another_name_outside_cannot_be_written(
    sandbox: Sandbox, filled: Path
) -> None:
    outside = filled.parent / "outside.txt"
    outside.write_text("outside")
    os.link(outside, filled / "hard")
    assert "hard-linked" in why_lent(filled)
    before = owners(filled)
    mine = opened(sandbox.kind)
    assert not mine.run(["sh", "-c", "echo evil > hard"], workspace=filled).ok
    assert mine.run(["sh", "-c", "echo after > folder/file"], workspace=filled).ok
    assert outside.read_text() == "outside"
    assert outside.stat().st_uid == 0
    del mine
    gc.collect()
    assert owners(filled) == before


def test_a_set_user_id_file_cannot_be_written(sandbox: Sandbox, filled: Path) -> None:
    (filled / "private").chmod(0o4755)
    assert "set-user-ID" in why_lent(filled)
    before = owners(filled)
    mine = opened(sandbox.kind)
    assert not mine.run(["sh", "-c", "echo evil > private"], workspace=filled).ok
    del mine
    gc.collect()
    assert owners(filled) == before


# --- lending ---


@pytest.mark.usefixtures("no_maps")
@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_what_was_lent_is_given_back(kind: str, filled: Path, home: Path) -> None:
    before = owners(filled)
    mine = opened(kind)
    result = mine.run(["sh", "-c", CHANGES], workspace=filled)
    assert result.ok, result.stderr
    assert owners(filled)["folder/file"][0] == DROPPED_UID
    del mine
    gc.collect()
    after = owners(filled)
    assert {name: after[name] for name in before} == before
    assert {state[:2] for name, state in after.items() if name not in before} == {(0, 0)}
    assert list((home / "lent").iterdir()) == []


@pytest.mark.usefixtures("no_maps")
def test_the_last_of_two_sandboxes_gives_back(filled: Path) -> None:
    before = owners(filled)
    first, second = opened("bubblewrap"), opened("bubblewrap")
    for each in (first, second):
        assert each.run(["touch", "folder/file"], workspace=filled).ok
    del first, each
    gc.collect()
    assert second.run(["sh", "-c", "echo after > folder/file"], workspace=filled).ok
    collect_loans()
    assert second.run(["sh", "-c", "echo again > folder/file"], workspace=filled).ok
    del second
    gc.collect()
    assert owners(filled) == before


@pytest.mark.usefixtures("no_maps")
def test_workspaces_that_are_gone_hold_nothing_open(outside: Path) -> None:
    mine = opened("bubblewrap")
    held = []
    for number in range(3):
        folder = outside / str(number)
        folder.mkdir()
        assert mine.run(["touch", "made"], workspace=folder).ok
        held.append(len(list(Path("/proc/self/fd").iterdir())))
        shutil.rmtree(folder)
    assert held[0] == held[1] == held[2]


KILLED = """
import os, signal, sys
from pathlib import Path
from perilune.sandbox import lending, open_sandbox
lending.why_not_mapped = lambda workspace: "forced by the test"
sandbox = open_sandbox()
assert sandbox.run(["touch", "made"], workspace=Path(sys.argv[1])).ok
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_is_made_good_at_the_next_start(filled: Path) -> None:
    before = owners(filled)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = [sys.executable, "-c", KILLED, str(filled)]
    assert subprocess.run(line, env=environment, check=False).returncode == -signal.SIGKILL
    assert owners(filled)["."][0] == DROPPED_UID
    open_sandbox()
    after = owners(filled)
    assert after.pop("made")[:2] == (0, 0)
    assert after == before


def test_a_loan_of_a_folder_that_was_replaced_touches_nothing(filled: Path, home: Path) -> None:
    loan = lend(filled)
    os.close(loan.descriptor)  # as if we were killed
    filled.rename(filled.with_name("moved"))
    filled.mkdir()
    os.chown(filled, DROPPED_UID, DROPPED_UID)
    collect_loans()
    assert filled.stat().st_uid == DROPPED_UID
    assert list((home / "lent").iterdir()) == []


def test_a_workspace_that_an_earlier_version_gave_away_comes_back(filled: Path) -> None:
    for path in (filled, filled / "folder", filled / "private"):
        os.chown(path, DROPPED_UID, DROPPED_UID)
    assert identity_for(filled).for_root
    mine = opened("bubblewrap")
    assert mine.run(["sh", "-c", CHANGES], workspace=filled).ok
    del mine
    gc.collect()
    assert {state[0] for state in owners(filled).values()} == {0, OTHER}


def test_why_a_file_system_cannot_be_mapped_is_said(tmp_path: Path) -> None:
    assert why_not_mapped(tmp_path) == ""
    assert "system call" in why_not_mapped(Path("/proc"))
