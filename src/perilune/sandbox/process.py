"""A running sandboxed command and the thread that supervises it.

The thread starts the command, drains its output, watches time, memory and disk, kills the whole
tree when a bound is broken, and reaps it. It lives exactly as long as the command:
`--die-with-parent` ties the sandbox to the thread that started it, so a thread that ended early
would end the sandbox.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from perilune.errors import SandboxError
from perilune.processes import FIXED_FOLDER, SYSTEM_PATH
from perilune.sandbox.capture import OutputCapture
from perilune.sandbox.cgroup import Cgroup
from perilune.sandbox.limits import Limits, Reason, SandboxResult
from perilune.sandbox.watch import process_tree, proportional_memory, tree_memory

_CHUNK = 1 << 16
_MEMORY_EVERY = 0.1
_DISK_EVERY = 1.0

Stream = Literal["stdout", "stderr"]


@dataclass
class Launch:
    """All that starts one command. `fds` are closed here once the command has its copies, `held`
    when it has ended."""

    argv: Sequence[str]
    pass_fds: Sequence[int]
    fds: Sequence[int]
    status_fd: int
    held: Sequence[int]
    limits: Limits
    stdin: bytes | None = None
    merge_stderr: bool = False
    cgroup: Cgroup | None = None
    watch_memory: bool = False
    grown: Callable[[], int] | None = None
    output_folder: Path | None = None
    gentle_signal: int | None = None
    settle: Callable[[], list[str]] | None = None


class SandboxProcess:
    """One command. `result` is set when it has ended and everything of it is gone."""

    def __init__(self, launch: Launch) -> None:
        self.result: Future[SandboxResult] = Future()
        self._launch = launch
        self._captures: dict[Stream, OutputCapture] = {}
        self._pipes: dict[Stream, IO[bytes]] = {}
        self._lock = threading.Lock()
        self._reason: Reason | None = None
        self._started = time.monotonic()
        self._next_memory = self._started
        self._next_disk = self._started + _DISK_EVERY
        self._ended = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._status = bytearray()
        self._notices: list[str] = []
        self._renew_captures()
        self._process: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._run, name="perilune-sandbox", daemon=True).start()

    @property
    def ended(self) -> bool:
        return self.result.done()

    def kill(self, reason: Reason = "cancelled") -> None:
        """Stop the command and everything that it started; returns at once."""
        with self._lock:
            if self._ended:
                return
            if self._reason is None:
                self._reason = reason
            os.write(self._wake_write, b"x")

    def wait(self) -> SandboxResult:
        """Block until it has ended. Raises `SandboxError` when the sandbox could not be set up."""
        return self.result.result()

    def settle(self) -> list[str]:
        """Take back what the command did where only the user may; says what. See git_settle.py."""
        return self._launch.settle() if self._launch.settle is not None else []

    def collect(self) -> tuple[OutputCapture, OutputCapture]:
        """Take what was printed so far (stdout, stderr) and start anew, for long-lived workers.

        Everything that was written before the call is in it, for it is in the pipes by then.
        """
        with self._lock:
            if not self._ended:
                for stream in list(self._pipes):
                    self._drain(stream)
            taken = self._captures["stdout"], self._captures["stderr"]
            self._renew_captures()
        for capture in taken:
            capture.close()
        return taken

    # --- the supervising thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            try:
                code, out_of_memory = self._supervise()
            finally:
                self._cleanup()
                self._notices += self.settle()
            self.result.set_result(self._make_result(code, out_of_memory))
        except BaseException as error:
            self.result.set_exception(error)

    def _supervise(self) -> tuple[int, bool]:
        """Run it to its end; gives its exit code, and whether the kernel killed for memory."""
        launch = self._launch
        try:
            self._process = process = subprocess.Popen(
                launch.argv,
                stdin=subprocess.DEVNULL if launch.stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if launch.merge_stderr else subprocess.PIPE,
                pass_fds=launch.pass_fds,
                env={"PATH": SYSTEM_PATH},
                cwd=FIXED_FOLDER,
            )
        except OSError as error:  # too long, no memory
            raise SandboxError(f"the command cannot be started: {error}") from None
        self._close_launch_fds()
        self._watch_until_end(process)
        # Nothing of the tree may outlive the command, whatever it did.
        self._kill_tree(process)
        code = process.wait()
        with self._lock:
            for stream in list(self._pipes):
                self._drain(stream)
            self._ended = True
            for capture in self._captures.values():
                capture.close()
        return code, launch.cgroup is not None and launch.cgroup.out_of_memory

    def _watch_until_end(self, process: subprocess.Popen[bytes]) -> None:
        launch = self._launch
        assert process.stdout is not None
        self._pipes["stdout"] = process.stdout
        if process.stderr is not None:
            self._pipes["stderr"] = process.stderr
        pidfd = os.pidfd_open(process.pid)
        with selectors.DefaultSelector() as selector:
            for stream, pipe in self._pipes.items():
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, stream)
            selector.register(launch.status_fd, selectors.EVENT_READ, "status")
            selector.register(self._wake_read, selectors.EVENT_READ, "wake")
            selector.register(pidfd, selectors.EVENT_READ, "end")
            pending = memoryview(launch.stdin or b"")
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
            try:
                while True:
                    for key, _ in selector.select(self._time_to_next_check()):
                        if key.data == "end":
                            return
                        if key.data == "wake":
                            self._kill_tree(process)
                            selector.unregister(self._wake_read)
                        elif key.data == "status":
                            if not self._read_status():
                                selector.unregister(launch.status_fd)
                        elif key.data == "stdin":
                            assert process.stdin is not None
                            pending = _write_some(process.stdin, pending)
                            if not pending:
                                selector.unregister(process.stdin)
                                process.stdin.close()
                        else:
                            with self._lock:
                                if not self._drain(key.data, once=True):
                                    selector.unregister(key.fileobj)
                    self._check(process.pid)
            finally:
                os.close(pidfd)

    def _time_to_next_check(self) -> float | None:
        launch = self._launch
        waits = []
        if launch.watch_memory:
            waits.append(_MEMORY_EVERY)
        if launch.grown is not None:
            waits.append(_DISK_EVERY)
        if launch.limits.wall_seconds is not None:
            left = self._started + launch.limits.wall_seconds - time.monotonic()
            waits.append(max(0.001, left))
        return min(waits) if waits and self._reason is None else None

    def _check(self, pid: int) -> None:
        """Break off a command that is over one of its bounds."""
        limits, now = self._launch.limits, time.monotonic()
        if self._reason is not None:
            return
        if limits.wall_seconds is not None and now >= self._started + limits.wall_seconds:
            self.kill("timeout")
        if sum(capture.size for capture in self._captures.values()) > limits.output:
            self.kill("output")
        if self._launch.watch_memory and limits.memory is not None and now >= self._next_memory:
            self._next_memory = now + _MEMORY_EVERY
            # Forks share pages, so a large sum is counted again, exactly.
            if tree_memory(pid) > limits.memory and proportional_memory(pid) > limits.memory:
                self.kill("memory")
        if self._launch.grown is not None and limits.disk is not None and now >= self._next_disk:
            if self._launch.grown() > limits.disk:
                self.kill("disk")
            # A large tree takes long to measure: spend a twentieth of the time on it at most.
            taken = time.monotonic() - now
            self._next_disk = now + max(_DISK_EVERY, 20 * taken)

    def _read_status(self) -> bool:
        data = os.read(self._launch.status_fd, _CHUNK)
        self._status += data
        return bool(data)

    def _drain(self, stream: Stream, *, once: bool = False) -> bool:
        """Read what a pipe holds; False at its end. The caller holds the lock."""
        pipe = self._pipes[stream]
        while True:
            try:
                data = os.read(pipe.fileno(), _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._captures[stream].feed(data)
            if once or self._captures[stream].size > 2 * self._launch.limits.output:
                return True

    def _renew_captures(self) -> None:
        for stream in ("stdout", "stderr"):
            self._captures[stream] = OutputCapture(
                self._launch.limits.shown, self._launch.output_folder
            )

    def _kill_tree(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the first process (its namespace dies with it), then whatever is still seen."""
        if self._launch.gentle_signal is not None and process.poll() is None:
            process.send_signal(self._launch.gentle_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        tree = list(process_tree(process.pid)) if process.poll() is None else []
        for pid in tree:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if self._launch.cgroup is not None:
            self._launch.cgroup.kill()

    def _close_launch_fds(self) -> None:
        for descriptor in self._launch.fds:
            os.close(descriptor)
        self._launch.fds = ()

    def _cleanup(self) -> None:
        with self._lock:
            self._ended = True
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._close_launch_fds()
        with contextlib.suppress(OSError):
            while self._read_status():
                pass
        own = (self._launch.status_fd, self._wake_read, self._wake_write)
        for descriptor in (*own, *self._launch.held):
            os.close(descriptor)
        if self._launch.cgroup is not None:
            self._launch.cgroup.remove()

    def _make_result(self, code: int, out_of_memory: bool) -> SandboxResult:
        stdout, stderr = self._captures["stdout"], self._captures["stderr"]
        reason: Reason = self._reason or ("memory" if out_of_memory and code else "exited")
        # The boundary reports an exit code only when it could set itself up.
        if reason == "exited" and b'"exit-code"' not in self._status:
            said = (stderr.text() or stdout.text()).strip() or f"exit code {code}"
            raise SandboxError(
                f"the sandbox could not be set up: {said}",
                remedy="`perilune doctor` says what this machine allows.",
            )
        number = None
        if reason == "exited" and 128 < code < 128 + signal.NSIG:
            reason, number = "signal", code - 128
        return SandboxResult(
            reason=reason,
            exit_code=code if reason in ("exited", "signal") else None,
            signal=number,
            stdout=stdout.text(),
            stderr=stderr.text(),
            stdout_bytes=stdout.size,
            stderr_bytes=stderr.size,
            stdout_file=stdout.file,
            stderr_file=stderr.file,
            wall_seconds=time.monotonic() - self._started,
            limits=self._launch.limits,
            notices=tuple(self._notices),
        )


def _write_some(pipe: IO[bytes], data: memoryview) -> memoryview:
    """Write what the pipe takes; nothing is left when the reader went away."""
    try:
        return data[os.write(pipe.fileno(), data) :] if data else data
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return memoryview(b"")
