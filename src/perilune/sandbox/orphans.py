"""Ends what a killed supervisor left behind.

A sandbox dies with its supervisor, but for one moment: bubblewrap's child waits for its parent's
word before it asks to die with it, so when both are killed just then it waits for ever. It has run
nothing of the command and never will; it is found by its mark and killed when we next start.
"""

from __future__ import annotations

import contextlib
import os
import signal
from functools import cache
from pathlib import Path

_NAME = "PERILUNE_SUPERVISOR:"


def mark() -> str:
    """Who supervises: the pid namespace, the pid and its start time, which together never recur."""
    return f"{_NAME}{_namespace()}-{os.getpid()}-{_start_time(os.getpid())}"


@cache
def kill_orphans() -> int:
    """Kill marked processes whose supervisor is gone; once per process. Gives how many there
    were.
    """
    killed = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            marks = [word.decode() for word in words if word.startswith(_NAME.encode())]
            if not marks or not words[0].endswith(b"bwrap"):
                continue
            namespace, pid, started = marks[0].removeprefix(_NAME).split("-")
            # A supervisor in another container has another namespace: not ours to judge.
            if namespace == _namespace() and _start_time(int(pid)) != started:
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
    return killed


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[19]
