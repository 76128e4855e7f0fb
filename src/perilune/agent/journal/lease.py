"""Who drives a run: a holder that can be asked whether it still lives.

A holder is a process, named so that a new process after a kill can tell at once that the old one
is gone (same machine: process id and start time), and so that another machine falls back to the
heartbeat's age.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

EXPIRY = 60.0
"""Seconds without a heartbeat after which a holder on another machine counts as gone."""


def holder() -> str:
    """This process as JSON text."""
    return json.dumps({"machine": _machine(), "pid": os.getpid(), "start": _start(os.getpid())})


def alive(holder_text: str, heartbeat: float) -> bool:
    """Whether a holder still drives its run. A live process on this machine always does."""
    try:
        other = json.loads(holder_text)
        machine, pid, start = str(other["machine"]), int(other["pid"]), other["start"]
    except (ValueError, KeyError, TypeError):
        return False
    if machine != _machine():
        return time.time() - heartbeat < EXPIRY
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return start is None or _start(pid) == start


def pid_of(holder_text: str) -> int:
    try:
        return int(json.loads(holder_text)["pid"])
    except (ValueError, KeyError, TypeError):
        return 0


def _machine() -> str:
    """This boot of this machine, and this process-id namespace of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None where the system does not say.

    A zombie has ended, and so has no start time that matches.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] == "Z" else int(fields[19])
