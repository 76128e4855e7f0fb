"""How the sandbox is opened, refused, cancelled; results, captures, interpreters."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import SandboxError
from perilune.sandbox import Mount, Sandbox, open_sandbox, opening
from perilune.sandbox.capture import OutputCapture
from perilune.sandbox.cgroup import cgroup_kind
from perilune.sandbox.doctor import doctor_checks
from perilune.sandbox.identity import check_workspace
from perilune.sandbox.interpreter import ENVIRONMENT_VARIABLE, sandbox_python
from perilune.sandbox.limits import human_bytes
from perilune.sandbox.orphans import kill_orphans
from perilune.sandbox.watch import folder_size, process_tree, tree_memory
from tests.sandbox.conftest import LIMITS
from tests.sandbox.test_probes import alive

# --- opening and refusing ---


def test_without_bubblewrap_it_refuses_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="bubblewrap is not installed") as caught:
        open_sandbox()
    assert caught.value.remedy == "Run: sudo apt-get install -y bubblewrap"


def test_a_bubblewrap_that_is_refused_is_no_sandbox(
    monkeypatch: pytest.MonkeyPatch, outside: Path
) -> None:
    """As on systems that refuse user namespaces: the program is there and fails."""
    fake = outside / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("perilune.sandbox.bubblewrap.find_bubblewrap", lambda: str(fake))
    with pytest.raises(SandboxError, match="Permission denied") as caught:
        open_sandbox()
    assert "--sandbox landlock" in caught.value.remedy


def test_landlock_is_never_chosen_silently(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = doctor_checks()
    assert not checks[0].ok
    assert checks[0].name == "sandbox (bubblewrap)"
    monkeypatch.setattr(opening, "landlock_version", lambda: 0)
    with pytest.raises(SandboxError, match="no landlock"):
        open_sandbox("landlock")
    with pytest.raises(SandboxError, match="no sandbox called 'none'"):
        open_sandbox("none")  # type: ignore[arg-type]


def test_doctor_says_what_holds(sandbox: Sandbox) -> None:
    checks = doctor_checks(sandbox.kind)
    assert [check.name for check in checks if not check.ok] == []
    assert len(checks) >= 11


@pytest.mark.parametrize("folder", ["/", "/tmp", "/usr", "/home", "/etc", "~", "~/.."])
def test_system_folders_and_the_home_are_no_workspace(folder: str) -> None:
    with pytest.raises(SandboxError, match="cannot be a workspace"):
        check_workspace(Path(folder).expanduser())


def test_a_workspace_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="not a folder"):
        check_workspace(tmp_path / "absent")


# --- running ---


def test_exit_codes_and_signals(sandbox: Sandbox, workspace: Path) -> None:
    result = sandbox.run(["sh", "-c", "echo out; echo err >&2; exit 7"], workspace=workspace)
    assert (result.reason, result.exit_code, result.ok) == ("exited", 7, False)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    result = sandbox.run(["sh", "-c", "kill -SEGV $$"], workspace=workspace)
    assert (result.reason, result.signal) == ("signal", 11)
    result = sandbox.run(["no-such-program"], workspace=workspace)
    assert result.exit_code == 127
    assert "no-such-program" in result.stderr


def test_merged_output_keeps_its_order(sandbox: Sandbox, workspace: Path) -> None:
    script = "echo 1; echo 2 >&2; echo 3; echo 4 >&2"
    result = sandbox.run(["sh", "-c", script], workspace=workspace, merge_stderr=True)
    assert result.stdout == "1\n2\n3\n4\n"


def test_argument_lists_are_not_read_by_a_shell(sandbox: Sandbox, workspace: Path) -> None:
    odd = "a'b\"c $(touch x) `touch y` ; \n z"
    assert sandbox.run(["printf", "%s", odd], workspace=workspace).stdout == odd
    assert not (workspace / "x").exists()


def test_a_workspace_with_an_odd_name(sandbox: Sandbox, workspace: Path) -> None:
    odd = workspace / 'it\'s a "folder" $(x) ünï'
    odd.mkdir()
    assert sandbox.run(["touch", "here"], workspace=odd).ok
    assert (odd / "here").exists()


def test_the_same_packages_as_ours(bubblewrap: Sandbox, workspace: Path) -> None:
    source = "import yaml, sys; print(sys.version_info[:2], yaml.__version__)"
    result = bubblewrap.run([bubblewrap.python.executable, "-c", source], workspace=workspace)
    import yaml

    assert result.stdout.strip() == f"{sys.version_info[:2]} {yaml.__version__}", result.stderr


def test_a_further_folder_is_shown_read_only(workspace: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "book").write_text("once")
    sandbox = open_sandbox(limits=LIMITS, mounts=[Mount(library, "/library")])
    assert sandbox.run(["cat", "/library/book"], workspace=workspace).stdout == "once"
    assert not sandbox.run(["touch", "/library/new"], workspace=workspace).ok


def test_many_at_once(bubblewrap: Sandbox, workspace: Path) -> None:
    results: list[str] = []

    def one(number: int) -> None:
        result = bubblewrap.run(["sh", "-c", f"sleep 0.1; echo {number}"], workspace=workspace)
        results.append(result.stdout.strip())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=int) == [str(number) for number in range(12)]


def test_a_command_line_that_cannot_be_is_refused(sandbox: Sandbox, workspace: Path) -> None:
    for argv in (["echo", "x" * 200_000], ["echo", "zero\0byte"]):
        with pytest.raises(SandboxError):
            sandbox.run(argv, workspace=workspace)


async def test_cancelling_kills(sandbox: Sandbox, workspace: Path) -> None:
    task = asyncio.create_task(
        sandbox.run_async(["sh", "-c", "touch started; sleep 30"], workspace=workspace)
    )
    while not (workspace / "started").exists():
        await asyncio.sleep(0.02)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 10


async def test_async_gives_the_same_result(bubblewrap: Sandbox, workspace: Path) -> None:
    result = await bubblewrap.run_async(["echo", "x"], workspace=workspace, stdin="unused")
    assert result.stdout == "x\n"


def test_nothing_is_left_open(bubblewrap: Sandbox, workspace: Path) -> None:
    """Descriptors, threads and control groups are those of before."""

    def open_things() -> tuple[int, int, int]:
        groups = [p for parent in set(cgroup_kind().parents.values()) for p in parent.iterdir()]
        ours = [p for p in groups if p.name.startswith(f"perilune-{os.getpid()}-")]
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), len(ours)

    bubblewrap.run(["true"], workspace=workspace)
    before = open_things()
    for argv in (["true"], ["false"], ["no-such-program"], ["sleep", "5"]):
        bubblewrap.run(argv, workspace=workspace, limits=replace(LIMITS, wall_seconds=0.2))
    time.sleep(0.05)
    assert open_things() == before


def test_a_start_that_fails_leaves_nothing_open(
    bubblewrap: Sandbox, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bubblewrap.run(["true"], workspace=workspace)
    monkeypatch.setattr("perilune.sandbox.bubblewrap.find_bubblewrap", lambda: "/no/bwrap")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises((SandboxError, OSError)):
            bubblewrap.run(["true"], workspace=workspace)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_groups_of_processes_that_were_killed_are_removed() -> None:
    kind = cgroup_kind()
    if kind.version == "none":
        pytest.skip("no control group here")
    (parent, *_) = kind.parents.values()
    gone, ours = parent / "perilune-4194305-0", parent / f"perilune-{os.getpid()}-x"
    gone.mkdir()
    ours.mkdir()
    cgroup_kind.cache_clear()
    try:
        assert cgroup_kind().version == kind.version
        assert not gone.exists()
        assert ours.exists()
    finally:
        ours.rmdir()


STARTER = """
import threading
from pathlib import Path
from perilune.sandbox import open_sandbox
sandbox = open_sandbox()
print("ready", flush=True)
def start():
    while True:
        sandbox.run(["sleep", "{number}"], workspace=Path("{workspace}"))
for _ in range(12):
    threading.Thread(target=start).start()
"""


def test_a_supervisor_that_is_killed_while_it_starts_leaves_nothing(
    bubblewrap: Sandbox, workspace: Path
) -> None:
    """Killed while twelve sandboxes start: whatever stage each is in, nothing runs on."""
    number = f"600.{uuid.uuid4().int % 10**9}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    source = STARTER.format(number=number, workspace=workspace)
    for delay in (0.0, 0.02, 0.06):
        supervisor = subprocess.Popen(
            [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE
        )
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"ready\n"
        time.sleep(delay)
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()
    time.sleep(0.5)
    kill_orphans.cache_clear()
    kill_orphans()
    deadline = time.monotonic() + 5
    while left := alive(number):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_living_supervisors_are_left_alone(bubblewrap: Sandbox, workspace: Path) -> None:
    process = bubblewrap.start(["sleep", "30"], workspace=workspace)
    time.sleep(0.3)
    kill_orphans.cache_clear()
    kill_orphans()
    time.sleep(0.1)
    assert not process.ended
    process.kill()
    assert process.wait().reason == "cancelled"


# --- the interpreter ---


def test_another_interpreter_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_python.cache_clear()
    try:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, sys.executable)
        assert sandbox_python().executable == sys.executable
        sandbox_python.cache_clear()
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "/no/such/python")
        with pytest.raises(SandboxError, match="/no/such/python"):
            sandbox_python()
    finally:
        monkeypatch.undo()
        sandbox_python.cache_clear()


def test_a_tree_that_holds_the_home_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    sandbox_python.cache_clear()
    try:
        assert sandbox_python().executable.startswith("/usr/")
        assert sandbox_python().trees == ()
    finally:
        sandbox_python.cache_clear()


def test_an_interpreter_in_the_workspace_cannot_be_changed(
    sandbox: Sandbox, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a command could write what runs as us, outside, the next time."""
    environment = workspace / "project" / ".venv"
    environment.mkdir(parents=True)
    (environment / "startup.pth").write_text("harmless")
    monkeypatch.setattr(sys, "prefix", str(environment))
    script = (
        "echo evil > project/.venv/startup.pth; mv project/.venv project/other; mv project moved"
    )
    if sandbox.kind == "landlock":
        with pytest.raises(SandboxError, match="interpreter that runs us"):
            sandbox.run(["sh", "-c", script], workspace=workspace)
        return
    result = sandbox.run(["sh", "-c", script + "; touch project/new"], workspace=workspace)
    assert "Read-only file system" in result.stderr
    assert (environment / "startup.pth").read_text() == "harmless"
    assert (workspace / "project" / "new").exists()
    assert not (workspace / "project" / "other").exists()
    if os.geteuid() == 0:
        assert (environment / "startup.pth").stat().st_uid == 0


# --- capture and watch ---


@given(chunks=st.lists(st.binary(max_size=300), max_size=30), shown=st.integers(2, 600))
def test_a_capture_keeps_both_ends_and_the_whole(chunks: list[bytes], shown: int) -> None:
    capture = OutputCapture(shown)
    for chunk in chunks:
        capture.feed(chunk)
    capture.close()
    whole = b"".join(chunks)
    assert capture.size == len(whole)
    if capture.file is None:
        assert len(whole) <= shown
        assert capture.text() == whole.decode("utf-8", "replace")
    else:
        assert capture.file.read_bytes() == whole
        assert "left out" in capture.text()
        assert len(capture.text()) <= shown + 100
        capture.file.unlink()


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (5, 1536, 3 << 20, 5 << 30)] == [
        "5 bytes",
        "1.5 KiB",
        "3 MiB",
        "5 GiB",
    ]


def test_folder_size_counts_blocks_once(tmp_path: Path) -> None:
    assert folder_size(tmp_path) == 0
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    once = folder_size(tmp_path)
    assert 100_000 <= once < 110_000
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("/usr")
    assert folder_size(tmp_path) == once
    assert folder_size(tmp_path / "absent") == 0


def test_the_process_tree_and_its_memory() -> None:
    assert os.getpid() in list(process_tree(os.getpid()))
    assert tree_memory(os.getpid()) > 10_000_000
