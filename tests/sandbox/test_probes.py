"""The probe table: what a command in the sandbox tries, and what it must not get.

Every test runs behind bubblewrap with a control group, without one, and behind landlock; the few
promises that landlock does not make are named where they are left out.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from perilune.sandbox import Limits, Sandbox, SandboxResult
from perilune.sandbox.limits import MIB
from tests.sandbox.conftest import LIMITS

Run = Callable[..., SandboxResult]


def refused(result: SandboxResult) -> None:
    """The program exits 0 exactly when it was refused."""
    assert result.ok, result.explanation + result.stderr


def alive(marker: str) -> list[int]:
    """Processes of the host whose command line names `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return [pid for pid in found if pid != os.getpid()]


def gone(marker: str) -> bool:
    """Whether all processes with `marker` are gone; a dying process may take a moment."""
    for _ in range(100):
        if not alive(marker):
            return True
        time.sleep(0.02)
    return False


# --- files ---


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/machine-id", "/root/.bashrc", "/root/.ssh"])
def test_host_files_are_not_there(python: Run, path: str) -> None:
    refused(
        python(f"""
import os, sys
try:
    os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}).read()
    sys.exit("read")
except OSError:
    pass
""")
    )


def test_a_world_readable_file_of_the_host_is_not_readable(
    python: Run, workspace: Path, outside: Path
) -> None:
    secret = outside / "secret.txt"
    secret.write_text("secret")
    secret.chmod(0o644)
    refused(
        python(f"""
import sys
for path in ({str(secret)!r}, "../secret.txt", "/proc/1/root{secret}"):
    try:
        open(path).read()
        sys.exit("read " + path)
    except OSError:
        pass
""")
    )


def test_the_root_holds_only_what_was_put_there(bubblewrap: Sandbox, workspace: Path) -> None:
    result = bubblewrap.run(["ls", "-A", "/", "/etc"], workspace=workspace)
    root, etc = result.stdout.split("/etc:")
    trees = {Path(tree).parts[1] for tree in bubblewrap.python.trees}
    usual = {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "tmp", "usr"}
    assert set(root.split()) - {"/:"} <= usual | trees | {"workspace"}
    assert not {"shadow", "hostname", "hosts", "sudoers"} & set(etc.split())
    passwd = bubblewrap.run(["cat", "/etc/passwd"], workspace=workspace).stdout
    assert len(passwd.splitlines()) == 3


@pytest.mark.parametrize("path", ["/usr/x", "/usr/bin/x", "/etc/x", "/x", "/dev/x", "/proc/x"])
def test_the_system_cannot_be_written(python: Run, path: str) -> None:
    refused(
        python(f"""
import sys
try:
    open({path!r}, "w").write("x")
    sys.exit("written")
except OSError:
    pass
""")
    )


def test_the_interpreter_cannot_be_written(python: Run, sandbox: Sandbox) -> None:
    refused(
        python("""
import sys
try:
    open(sys.prefix + "/perilune-probe", "w")
    sys.exit("written")
except OSError:
    pass
""")
    )


def test_the_workspace_and_the_scratch_folder_can_be_written(python: Run, workspace: Path) -> None:
    (workspace / "given.txt").write_text("given")
    result = python("""
import os
open("made.txt", "w").write(open("given.txt").read() + " and made")
open(os.environ["TMPDIR"] + "/scratch", "w").write("x")
os.mkdir("folder"); os.symlink("/etc/shadow", "folder/link")
""")
    assert result.ok, result.stderr
    assert (workspace / "made.txt").read_text() == "given and made"


def test_a_single_file_is_bounded(python: Run, workspace: Path) -> None:
    result = python("""
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open("big", "wb") as file:
    for _ in range(80):
        file.write(bytes(1 << 20))
""")
    assert not result.ok
    assert "File too large" in result.stderr
    assert (workspace / "big").stat().st_size <= LIMITS.file_size


def test_the_scratch_folder_is_bounded(bubblewrap: Sandbox, workspace: Path) -> None:
    limits = replace(LIMITS, scratch=8 * MIB)
    for folder in ("/tmp", "/dev/shm"):
        result = bubblewrap.run(
            ["dd", "if=/dev/zero", f"of={folder}/big", "bs=1M", "count=16"],
            workspace=workspace,
            limits=limits,
        )
        assert "No space left" in result.stderr


def test_growth_of_the_workspace_is_bounded(sandbox: Sandbox, workspace: Path) -> None:
    script = "for i in $(seq 1000); do head -c 4M /dev/zero > f$i; sleep 0.05; done"
    result = sandbox.run(
        ["sh", "-c", script], workspace=workspace, limits=replace(LIMITS, disk=16 * MIB)
    )
    assert result.reason == "disk"
    assert "16 MiB" in result.explanation


def test_no_file_becomes_set_user_id(python: Run, workspace: Path) -> None:
    """In the workspace it belongs to the workspace's owner, and would run as that one outside."""
    refused(
        python("""
import os, sys
os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o755))
inside = os.open(".", os.O_RDONLY)
for mode in (0o4755, 0o2755, 0o6711):
    for attempt in (
        lambda: os.chmod("file", mode),
        lambda: os.chmod("file", mode, dir_fd=inside),
        lambda: os.fchmod(os.open("file", os.O_RDONLY), mode),
        lambda: os.open("made", os.O_CREAT | os.O_WRONLY, mode),
        lambda: os.open(".", os.O_TMPFILE | os.O_WRONLY, mode),
        lambda: os.mknod("made", mode),
    ):
        try:
            attempt()
            sys.exit("allowed")
        except PermissionError:
            pass
os.chmod("file", 0o1777)
""")
    )
    assert [oct(path.stat().st_mode) for path in workspace.iterdir()] == ["0o101777"]


# --- network ---


def test_sockets_of_every_family_but_unix_are_refused(python: Run) -> None:
    refused(
        python("""
import errno, socket, sys
for family in range(0, 46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        if family == socket.AF_UNIX:
            continue
        try:
            socket.socket(family, kind)
            sys.exit(f"family {family} kind {kind} opened")
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                sys.exit(f"family {family}: {error}")
left, right = socket.socketpair()
left.send(b"x")
sys.exit(right.recv(1) != b"x")
""")
    )


def test_a_port_of_the_host_does_not_answer(python: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused(
            python(f"""
import socket, sys
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    sys.exit("connected")
except OSError:
    pass
""")
        )


def test_an_abstract_socket_of_the_host_does_not_answer(python: Run) -> None:
    name = f"\0perilune-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        refused(
            python(f"""
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect({name!r})
    sys.exit("connected")
except OSError:
    pass
""")
        )


def test_only_a_dead_loopback_is_there(bubblewrap: Sandbox, workspace: Path) -> None:
    result = bubblewrap.run(["cat", "/proc/net/dev"], workspace=workspace)
    names = [line.split(":")[0].strip() for line in result.stdout.splitlines()[2:]]
    assert names == ["lo"]


# --- secrets, processes, the kernel ---


def test_environment_secrets_are_absent(python: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    result = python("import os; print(dict(os.environ))", environment={"GIVEN": "yes"})
    assert "SECRET_TOKEN" not in result.stdout
    assert "sesame" not in result.stdout
    assert "'GIVEN': 'yes'" in result.stdout


def test_our_own_environment_cannot_be_read_through_proc(
    python: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    result = python("""
import glob
for path in glob.glob("/proc/[0-9]*/environ") + ["/proc/self/environ", "/proc/1/environ"]:
    try:
        print(open(path).read())
    except OSError:
        pass
""")
    assert "sesame" not in result.stdout


def test_processes_of_the_host_cannot_be_signalled(python: Run) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        refused(
            python(f"""
import os, signal, sys
for pid in ({victim.pid}, {os.getpid()}):
    try:
        os.kill(pid, signal.SIGKILL)
        sys.exit("signalled")
    except OSError:
        pass
""")
        )
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_only_its_own_processes_are_seen(bubblewrap: Sandbox, workspace: Path) -> None:
    result = bubblewrap.run(["sh", "-c", "ls -d /proc/[0-9]* | wc -l"], workspace=workspace)
    assert int(result.stdout) <= 5


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("unshare", "0x10000000"),
        ("unshare", "0x00020000"),
        ("setns", "0, 0"),
        ("mount", 'b"none", b".", b"tmpfs", 0, None'),
        ("umount2", 'b"/usr", 2'),
        ("chroot", 'b"/"'),
        ("pivot_root", 'b"/", b"/"'),
        ("ptrace", "16, 1, None, None"),
        ("process_vm_readv", "1, None, 0, None, 0, 0"),
        ("reboot", "0"),
        ("swapon", 'b"/x", 0'),
        ("sethostname", 'b"x", 1'),
        ("acct", 'b"x"'),
    ],
)
def test_dangerous_system_calls_are_refused(python: Run, call: str, arguments: str) -> None:
    refused(
        python(f"""
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.{call}({arguments}) != -1 or ctypes.get_errno() != errno.EPERM:
    sys.exit(f"errno {{ctypes.get_errno()}}")
""")
    )


@pytest.mark.parametrize("number", [425, 426, 321, 298, 323, 250, 428, 429, 432, 442, 438])
def test_system_calls_without_a_wrapper_are_refused(python: Run, number: int) -> None:
    """io_uring, bpf, perf, userfaultfd, keyctl, the new mount calls, pidfd_getfd (x86-64)."""
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86-64")
    refused(
        python(f"""
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall({number}, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
    sys.exit(f"errno {{ctypes.get_errno()}}")
""")
    )


def test_clone_into_new_namespaces_is_refused(python: Run) -> None:
    """`unshare` is not the only way to a user namespace."""
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    refused(
        python(f"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000):
    result = libc.syscall({number}, flag | 17, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result > 0 or ctypes.get_errno() != errno.EPERM:
        sys.exit(f"{{flag:#x}}: {{result}}")
if libc.syscall(435, 0, 0) != -1 or ctypes.get_errno() != errno.ENOSYS:
    sys.exit("clone3")
""")
    )


def test_typing_into_the_terminal_is_refused(python: Run) -> None:
    refused(
        python("""
import errno, fcntl, sys
try:
    fcntl.ioctl(0, 0x5412, b"x")
    sys.exit("typed")
except OSError as error:
    sys.exit(error.errno != errno.EPERM)
""")
    )


def test_a_setuid_program_gains_nothing(sandbox: Sandbox, workspace: Path) -> None:
    result = sandbox.run(
        ["grep", "-sE", "NoNewPrivs|CapEff|CapBnd|Seccomp:", "/proc/self/status"],
        workspace=workspace,
    )
    if sandbox.kind == "landlock":
        return  # /proc is closed; no_new_privs is what makes seccomp loadable there
    fields = dict(line.split(":\t") for line in result.stdout.splitlines())
    assert fields == {
        "CapEff": "0" * 16,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }


# --- memory and processes ---


def test_eight_gigabytes_are_not_given(python: Run) -> None:
    result = python("b = bytearray(8 << 30)")
    assert result.exit_code == 1
    assert "MemoryError" in result.stderr


HOG = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        block = bytearray(os.urandom(1 << 20)) * 96
        time.sleep(20)
        os._exit(0)
os.wait()
"""


def test_the_memory_of_all_processes_together_is_bounded(python: Run) -> None:
    """Eight processes of 96 MiB, each allowed by itself, in a sandbox of 256 MiB."""
    limits = replace(LIMITS, memory=256 * MIB, wall_seconds=15)
    result = python(HOG + "raise SystemExit(3)", limits=limits)
    assert result.reason == "memory"
    assert "256 MiB" in result.explanation


def test_a_memory_hog_is_stopped_soon(python: Run) -> None:
    source = """
import time
blocks = []
while True:
    blocks.append(bytearray(8 << 20))
    time.sleep(0.005)
"""
    limits = replace(LIMITS, memory=128 * MIB, data=None)
    result = python(source, limits=limits)
    assert result.reason in ("memory", "signal"), result
    assert result.wall_seconds < 15


def test_a_fork_bomb_is_bounded(python: Run) -> None:
    result = python("""
import os, time
count = 0
try:
    while count < 1500:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count, flush=True)
os._exit(0)
""")
    assert result.ok, result.explanation
    assert 0 < int(result.stdout) <= LIMITS.processes + 2


def test_a_shell_fork_bomb_ends_with_the_clock(sandbox: Sandbox, workspace: Path) -> None:
    marker = uuid.uuid4().hex
    result = sandbox.run(
        ["bash", "-c", f"f() {{ f | f & }}; : {marker}; f; sleep 30"],
        workspace=workspace,
        limits=replace(LIMITS, wall_seconds=1.5, processes=64),
    )
    assert result.reason == "timeout"
    assert gone(marker)


def test_a_busy_loop_that_ignores_signals_is_killed(python: Run) -> None:
    result = python(
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
        limits=replace(LIMITS, wall_seconds=1),
    )
    assert result.reason == "timeout"
    assert "longer than 1 s" in result.explanation
    assert result.exit_code is None


def test_cpu_time_is_bounded(python: Run) -> None:
    result = python("while True: pass", limits=replace(LIMITS, cpu_seconds=1))
    assert result.reason == "signal"
    assert result.signal in (signal.SIGXCPU, signal.SIGKILL)


# --- daemons ---

DAEMON = (
    "setsid -f sleep {number}; (setsid sleep {number} &) ; (trap '' TERM HUP; sleep {number}) &"
)


def sleep_marker() -> str:
    """A number of seconds that no other process sleeps for."""
    return f"600.{uuid.uuid4().int % 10**9}"


def test_daemons_die_with_a_normal_end(sandbox: Sandbox, workspace: Path) -> None:
    number = sleep_marker()
    result = sandbox.run(["bash", "-c", DAEMON.format(number=number)], workspace=workspace)
    assert result.reason == "exited"
    assert gone(number)


def test_daemons_die_with_the_clock(sandbox: Sandbox, workspace: Path) -> None:
    number = sleep_marker()
    result = sandbox.run(
        ["bash", "-c", DAEMON.format(number=number) + " wait; sleep 50"],
        workspace=workspace,
        limits=replace(LIMITS, wall_seconds=1),
    )
    assert result.reason == "timeout"
    assert gone(number)


def test_daemons_die_with_us(sandbox: Sandbox, workspace: Path) -> None:
    """The supervisor is killed with SIGKILL; nothing of the sandbox stays behind."""
    number = sleep_marker()
    source = f"""
from pathlib import Path
from perilune.sandbox import open_sandbox
sandbox = open_sandbox({sandbox.kind!r}, use_cgroup=False)
command = {DAEMON.format(number=number) + f" sleep {number}"!r}
sandbox.run(["bash", "-c", command], workspace=Path({str(workspace)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    supervisor = subprocess.Popen([sys.executable, "-c", source], env=environment)
    try:
        deadline = time.monotonic() + 20
        while len([pid for pid in alive(number) if pid != supervisor.pid]) < 4:
            assert time.monotonic() < deadline, "the sandbox did not start"
            time.sleep(0.05)
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    assert gone(number)


# --- output and input ---


def test_endless_output_is_stopped_and_not_kept_in_memory(
    sandbox: Sandbox, workspace: Path
) -> None:
    limits = replace(LIMITS, output=4 * MIB, shown=10_000)
    result = sandbox.run(["yes", "all work"], workspace=workspace, limits=limits)
    assert result.reason == "output"
    assert len(result.stdout) < 11_000
    assert "left out" in result.stdout
    assert result.stdout.startswith("all work\n")
    assert result.stdout.endswith("all work\n")
    assert result.stdout_file is not None
    assert 4 * MIB <= result.stdout_file.stat().st_size <= 12 * MIB
    result.stdout_file.unlink()


def test_a_process_that_waits_for_input_finds_none(sandbox: Sandbox, workspace: Path) -> None:
    assert sandbox.run(["cat"], workspace=workspace).ok
    result = sandbox.run(["bash", "-c", "read -r line || echo none"], workspace=workspace)
    assert result.stdout == "none\n"
    assert not sandbox.run(["sh", "-c", "echo x > /dev/tty"], workspace=workspace).ok


def test_large_input_reaches_the_command(sandbox: Sandbox, workspace: Path) -> None:
    result = sandbox.run(["wc", "-c"], workspace=workspace, stdin=b"x" * 3_000_000)
    assert result.stdout.strip() == "3000000"
    # A command that does not read its input is no failure.
    assert sandbox.run(["true"], workspace=workspace, stdin=b"x" * 3_000_000).ok


def test_ordinary_programs_work(python: Run, workspace: Path) -> None:
    result = python("""
import asyncio, multiprocessing, os, subprocess, sys, tempfile, threading
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout.strip())
async def main():
    process = await asyncio.create_subprocess_exec("echo", stdout=-1)
    await process.communicate()
    print("asyncio")
asyncio.run(main())
with tempfile.TemporaryFile() as file:
    file.write(b"x")
reading, writing = multiprocessing.Pipe()
if os.fork() == 0:
    writing.send("fork"); os._exit(0)
print(reading.recv())
""")
    assert result.stdout.split() == ["thread", "child", "asyncio", "fork"], result.stderr


def test_limits_hold_by_default() -> None:
    """Nothing is unbounded unless it is said: the defaults name a number for every bound but AS."""
    unbounded = [name for name in Limits.__slots__ if getattr(Limits(), name) is None]
    assert unbounded == ["address_space"]
