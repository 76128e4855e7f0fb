"""Why an engine ended, in one word for counting and in words for people.

A process tells by its exit status who ended it: itself, a signal, or our own watchdog. That memory
ran out does not stand there: the kernel kills with SIGKILL, as `kill -9` does. It counts its kills,
though, for the machine and for each cgroup, and a count that rose meanwhile tells.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perilune.errors import OutOfMemoryError

HUNG, OUT_OF_MEMORY, EXIT, ERROR = "hung", "out_of_memory", "exit", "error"


@dataclass(frozen=True, slots=True)
class Ended:
    """`reason`: hung, out_of_memory, exit, error, or the name of a signal (SIGKILL)."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """Something that who runs an engine wants to know.

    died: the engine is gone and is started again; `requests` failed with it. load_failed: that
    start failed, another follows. back: it runs again, after `seconds`. gave_up: it is not started
    any more. standby_died: the process that waits to take over is gone; another one is started.
    """

    kind: Literal["died", "load_failed", "back", "gave_up", "standby_died"]
    reason: str = ""
    text: str = ""
    requests: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """Processes that the kernel killed because memory ran out, so far; None: it does not say."""

    group: int | None = None  # in our cgroup and those below it
    machine: int | None = None

    @classmethod
    def now(cls) -> MemoryKills:
        """Sources: cgroups(7) and the kernel's cgroup-v2 page (memory.events), proc(5) vmstat."""
        return cls(_group_kills(), _counted(Path("/proc/vmstat"), "oom_kill"))


def describe_exit(
    status: int, *, hung_seconds: float | None = None, before: MemoryKills | None = None
) -> Ended:
    """Why a process ended with this status (negative: by that signal, as asyncio gives it).

    hung_seconds: it was killed by us after so many in which it did nothing. before: the counts of
    the time when it was started.
    """
    if status >= 0:
        return Ended(EXIT, f"its process ended by itself with exit status {status}")
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    said = f"its process was killed by {name} (exit status {status})"
    if hung_seconds is not None:
        return Ended(
            HUNG, f"it hung: for {hung_seconds:g} s it had work and did nothing, so {said}"
        )
    if -status == signal.SIGKILL:
        now = MemoryKills.now()
        if before is not None and _rose(before.group, now.group):
            return Ended(
                OUT_OF_MEMORY,
                f"{said}, out of memory: its cgroup's count of such kills rose from "
                f"{before.group} to {now.group}",
            )
        if before is not None and _rose(before.machine, now.machine):
            return Ended(
                OUT_OF_MEMORY,
                f"{said}, most likely out of memory: the kernel's count of such kills rose from "
                f"{before.machine} to {now.machine}",
            )
        return Ended(name, f"{said}, by somebody or by a limit outside: no count of kills for lack "
                     "of memory rose")  # fmt: skip
    return Ended(name if name.startswith("SIG") else "signal", said)


def describe_error(error: BaseException) -> Ended:
    """Why an engine's loop ended with this error."""
    no_memory = isinstance(error, MemoryError | OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("not enough memory", "can't allocate memory"))
    )
    return Ended(OUT_OF_MEMORY if no_memory else ERROR, f"{type(error).__name__}: {error}")


def _rose(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now > before


def _group_kills() -> int | None:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        relative = path.lstrip("/")
        if not kinds:
            # Inside a container its own group is the root of what is mounted.
            for folder in (Path("/sys/fs/cgroup") / relative, Path("/sys/fs/cgroup")):
                found = _counted(folder / "memory.events", "oom_kill")
                if found is not None:
                    return found
        elif "memory" in kinds.split(","):
            root = Path("/sys/fs/cgroup/memory")
            for folder in (root / relative, root):
                found = _counted(folder / "memory.oom_control", "oom_kill")
                if found is not None:
                    return found
    return None


def _counted(file: Path, name: str) -> int | None:
    """The number behind `name` in a file of lines `name number`."""
    try:
        for line in file.read_text().splitlines():
            word, _, number = line.partition(" ")
            if word == name:
                return int(number)
    except (OSError, ValueError):
        pass
    return None
