"""A control group for each command, where this process may make one: v2, v1, or none.

A group bounds the memory and the number of processes of a whole tree, and kills it in one go.
Sources: Linux `Documentation/admin-guide/cgroup-v2.rst` (delegation, no-internal-process rule) and
`cgroup-v1/memory.rst`, `cgroup-v1/pids.rst`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from perilune.processes import FIXED_FOLDER, SYSTEM_PATH
from perilune.sandbox.limits import Limits

_counter = itertools.count()


@dataclass
class CgroupKind:
    """Where groups can be made. `parents` maps a controller to the folder that takes new groups."""

    version: Literal["v2", "v1", "none"]
    parents: dict[str, Path] = field(default_factory=dict)
    why: str = ""

    @property
    def bounds_memory(self) -> bool:
        return "memory" in self.parents

    def __str__(self) -> str:
        if self.version == "none":
            return f"none ({self.why})"
        return f"{self.version} ({', '.join(self.parents)})"


class Cgroup:
    """One group, made for one command and removed after it."""

    def __init__(self, kind: CgroupKind, limits: Limits) -> None:
        name = f"perilune-{os.getpid()}-{next(_counter)}"
        self._kind = kind
        self.folders = {folder: folder / name for folder in dict.fromkeys(kind.parents.values())}
        for path in self.folders.values():
            path.mkdir()
        try:
            self._set_bounds(limits)
        except OSError:
            self.remove()
            raise

    def _set_bounds(self, limits: Limits) -> None:
        for controller, parent in self._kind.parents.items():
            folder = self.folders[parent]
            if controller == "pids":
                # Two more for the sandbox's own: its monitor and its first process.
                (folder / "pids.max").write_text(str(limits.processes + 2))
            elif limits.memory is None:
                continue
            elif self._kind.version == "v2":
                (folder / "memory.max").write_text(str(limits.memory))
                with contextlib.suppress(OSError):  # absent without swap accounting
                    (folder / "memory.swap.max").write_text("0")
            else:
                (folder / "memory.limit_in_bytes").write_text(str(limits.memory))
                with contextlib.suppress(OSError):
                    (folder / "memory.memsw.limit_in_bytes").write_text(str(limits.memory))

    @property
    def bounds_memory(self) -> bool:
        return self._kind.bounds_memory

    @property
    def join_files(self) -> list[Path]:
        """A process that writes its pid into each of these is in the group, with its children."""
        return [folder / "cgroup.procs" for folder in self.folders.values()]

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed something of the group for memory."""
        for folder in self.folders.values():
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        key, _, count = line.partition(" ")
                        if key == "oom_kill" and int(count) > 0:
                            return True
        return False

    def pids(self) -> set[int]:
        found: set[int] = set()
        for path in self.join_files:
            with contextlib.suppress(OSError):
                found.update(int(line) for line in path.read_text().split())
        return found

    def kill(self) -> None:
        """Kill everything in the group, however it forks."""
        for folder in self.folders.values():
            with contextlib.suppress(OSError):  # since Linux 5.14, v2 only
                (folder / "cgroup.kill").write_text("1")
        for _ in range(100):
            left = self.pids()
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)

    def remove(self) -> None:
        """Remove the empty group; the kernel may need a moment after the last process is gone."""
        for folder in self.folders.values():
            for _ in range(100):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)
                else:
                    break


@cache
def cgroup_kind() -> CgroupKind:
    """What this process may use; found by making a group and putting a process into it."""
    own = _own_groups()
    for kind in (_version_1(own), *_version_2(own)):
        if kind is not None and _works(kind):
            _remove_stale(kind)
            return kind
    return CgroupKind("none", why="no delegated control group with memory and pids")


def _works(kind: CgroupKind) -> bool:
    """Whether a process can join a group of this kind: making one may be allowed without that."""
    try:
        group = Cgroup(kind, Limits())
    except OSError:
        return False
    joins = 'for each in "$@"; do echo $$ > "$each" || exit 1; done'
    line = ["/bin/sh", "-c", joins, "sh", *map(str, group.join_files)]
    try:
        return (
            subprocess.run(
                line, capture_output=True, check=False, env={"PATH": SYSTEM_PATH}, cwd=FIXED_FOLDER
            ).returncode
            == 0
        )
    finally:
        group.remove()


def _remove_stale(kind: CgroupKind) -> None:
    """Remove the empty groups of processes that were killed before they could."""
    for parent in set(kind.parents.values()):
        for folder in parent.glob("perilune-*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdigit() and not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _own_groups() -> dict[str, str]:
    """Controller (or "" for v2) -> path of this process's group below the mount."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _mounts() -> Iterator[tuple[str, str, Path, set[str]]]:
    """(type, root inside the hierarchy, mount point, options) of every control group mount."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            fields, kind, options = left.split(), right.split()[0], right.split()[-1]
            if kind in ("cgroup", "cgroup2"):
                yield kind, fields[3], Path(fields[4]), set(options.split(","))


def _folder(group: str, root: str, mount: Path) -> Path:
    """Where a group is in the file system; the mount may show a part of the hierarchy only."""
    if root != "/" and group.startswith(root):
        group = group[len(root) :]
    return mount / group.lstrip("/")


def _version_1(own: dict[str, str]) -> CgroupKind | None:
    parents: dict[str, Path] = {}
    for kind, root, mount, options in _mounts():
        if kind != "cgroup":
            continue
        for controller in ("memory", "pids"):
            if controller in options and controller in own:
                folder = _folder(own[controller], root, mount)
                if os.access(folder, os.W_OK):
                    parents[controller] = folder
    return CgroupKind("v1", parents) if parents else None


def _version_2(own: dict[str, str]) -> Iterator[CgroupKind]:
    """Every ancestor of our own group that is ours and hands on memory and pids, nearest first."""
    for kind, root, mount, _ in _mounts():
        if kind != "cgroup2" or "" not in own:
            continue
        folder = _folder(own[""], root, mount)
        while folder.is_relative_to(mount):
            with contextlib.suppress(OSError):
                handed_on = (folder / "cgroup.subtree_control").read_text().split()
                if {"memory", "pids"} <= set(handed_on) and os.access(folder, os.W_OK):
                    yield CgroupKind("v2", {"memory": folder, "pids": folder})
            folder = folder.parent
