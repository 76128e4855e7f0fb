"""What a sandboxed command may use, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one command (bytes, seconds, counts); None leaves a bound out.

    `memory` bounds all processes together: by the cgroup where there is one, otherwise by a watch
    that sums them up several times per second. `data` (RLIMIT_DATA) bounds each process at once,
    and `address_space` (RLIMIT_AS) too, but that breaks programs that reserve much and use little
    (JavaScript, Java and Go runtimes), so it is off by default. `processes` counts threads too.
    `disk` is what the workspace may grow by over the life of the `Sandbox`, `output` what a command
    may print before it is stopped; of that `shown` bytes per stream are kept in memory, first and
    last half, and all of it in a file.
    """

    wall_seconds: float | None = 120.0
    cpu_seconds: int | None = 600
    memory: int | None = 2 * GIB
    data: int | None = 2 * GIB
    address_space: int | None = None
    processes: int = 256
    open_files: int = 256
    file_size: int = 256 * MIB
    scratch: int = 256 * MIB
    disk: int | None = 2 * GIB
    output: int = 64 * MIB
    shown: int = 32 * 1024


Reason = Literal["exited", "signal", "timeout", "memory", "output", "disk", "cancelled"]

_SAYS: dict[Reason, str] = {
    "timeout": "stopped: it ran longer than {limits.wall_seconds:g} s",
    "memory": "stopped: its processes together used more than {memory} of memory",
    "output": "stopped: it printed more than {output}",
    "disk": "stopped: it made the workspace grow by more than {disk}",
    "cancelled": "stopped: the run was interrupted",
}


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What a command did.

    `exit_code` is None when it was stopped or died of a signal (then `signal` is its number).
    `stdout` and `stderr` are text, shortened in the middle when they were long; the whole bytes
    are then in `stdout_file` and `stderr_file`, which belong to the caller. `notices` say what of
    its work was taken back, or runs by itself where the user would not expect it.
    """

    reason: Reason
    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    stdout_file: Path | None
    stderr_file: Path | None
    wall_seconds: float
    limits: Limits
    notices: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.reason == "exited" and self.exit_code == 0

    @property
    def explanation(self) -> str:
        """One line on how it ended, empty when it ended well."""
        if self.ok:
            return ""
        if self.reason == "exited":
            return f"exit code {self.exit_code}"
        if self.reason == "signal":
            return f"killed by signal {self.signal}" + (
                " (likely for memory or CPU time)" if self.signal in (9, 24) else ""
            )
        return _SAYS[self.reason].format(
            limits=self.limits,
            memory=human_bytes(self.limits.memory or 0),
            output=human_bytes(self.limits.output),
            disk=human_bytes(self.limits.disk or 0),
        )


def notices_text(notices: Iterable[str]) -> str:
    """Notices as they stand below a command's output; empty when there are none."""
    return "".join(f"\n[{each}]" for each in notices)


def human_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:g} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"
