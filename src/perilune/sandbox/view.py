"""Root's private view: a mount namespace in which commands of the dropped id find their folders.

Two things need it. Folders that the id cannot walk to (an interpreter in root's home) are shown at
a place that it can. And root's workspace is shown id-mapped: what root owns on the disk belongs to
the dropped id in there, and what that id makes belongs to root on the disk, so no owner is changed.
The namespace lives as long as its descriptor, or a process in it; a crash leaves nothing mounted.
Sources: `mount_setattr(2)` (MOUNT_ATTR_IDMAP, Linux 5.12), `open_tree(2)`, `move_mount(2)`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from perilune.errors import SandboxError
from perilune.processes import FIXED_FOLDER, SYSTEM_PATH
from perilune.sandbox.identity import DROPPED_UID

STAGE = Path("/mnt")
"""An empty file system in the view, where it is asked for: a place for what cannot be reached."""

# The same numbers on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_HERE, _EMPTY_PATH, _RECURSIVE = -100, 0x1000, 0x8000
_CLONE, _MOVE_EMPTY_PATH = 1, 4
_NEW_MOUNTS = 0x20000
_ALL_SLAVES = 0x4000 | 1 << 19  # MS_REC | MS_SLAVE: what is unmounted outside goes here too
_NO_SETUID, _NO_DEVICES, _IDMAP = 2, 4, 0x100000

# On the disk, in the view, how many: root is the dropped id, which itself is nobody; others stay.
_MAP = f"0 {DROPPED_UID} 1\n1 1 {DROPPED_UID - 1}\n{DROPPED_UID + 1} {DROPPED_UID + 1} 4294901761\n"


@dataclass(frozen=True, slots=True)
class Shown:
    """A host path, shown at `target`; `mapped`: root's entries in it are the dropped id's."""

    source: Path
    target: Path
    mapped: bool = False


def open_view(shown: Sequence[Shown]) -> int:
    """A descriptor of a new mount namespace that shows these; the caller closes it.

    Targets below `STAGE` are made. Raises `SandboxError` when the kernel refuses.
    """
    trees: list[int] = []
    try:
        for each in shown:
            trees.append(_tree(each.source, mapped=each.mapped))
        return _namespace(shown, trees)
    except OSError as error:
        raise SandboxError(
            f"the sandbox's folders cannot be mounted: {error}",
            remedy="Run Perilune as a plain user, or with the right to mount (CAP_SYS_ADMIN).",
        ) from error
    finally:
        for tree in trees:
            os.close(tree)


def why_not_mapped(workspace: Path) -> str:
    """What speaks against an id-mapped view of a folder; empty when there can be one.

    Its file system cannot be mapped (overlayfs, network file systems), the kernel is too old, or we
    may not mount, as in most containers.
    """
    try:
        os.close(_tree(workspace, mapped=True))
    except OSError as error:
        return f"no id-mapped mount: {error}"
    return ""


def enter(view: int) -> list[str]:
    """The start of a command line that goes on inside the view.

    It is named by our own path: a descriptor that is inherited would reach the command.
    """
    return ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{view}", "--"]


def _tree(source: Path, *, mapped: bool) -> int:
    """A detached mount of `source` and of what is mounted in it; only itself is mapped."""
    flags = _CLONE | os.O_CLOEXEC | _RECURSIVE
    tree = _call(_OPEN_TREE, _HERE, os.fsencode(source), flags)
    if mapped:
        try:
            change = _NO_SETUID | _NO_DEVICES | _IDMAP
            attributes = struct.pack("<4Q", change, 0, 0, _user_namespace())
            _call(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, len(attributes))
        except OSError:
            os.close(tree)
            raise
    return tree


def _namespace(shown: Sequence[Shown], trees: Sequence[int]) -> int:
    """Make the namespace in a thread of its own, for it cannot be left again."""
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            _check(_libc().unshare(_NEW_MOUNTS), "unshare")
            _check(_libc().mount(None, b"/", None, _ALL_SLAVES, None), "mount /")
            if any(each.target.is_relative_to(STAGE) for each in shown):
                options = b"mode=755,size=64k"
                _check(
                    _libc().mount(b"tmpfs", os.fsencode(STAGE), b"tmpfs", 0, options),
                    f"mount {STAGE}",
                )
            for each, tree in zip(shown, trees, strict=True):
                if each.target.is_relative_to(STAGE):
                    folder = stat.S_ISDIR(os.fstat(tree).st_mode)
                    each.target.mkdir() if folder else each.target.touch()
                target = os.fsencode(each.target)
                _call(_MOVE_MOUNT, tree, b"", _HERE, target, _MOVE_EMPTY_PATH)
            made.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="perilune-view")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


@cache
def _user_namespace() -> int:
    """A user namespace that stands for the map; nothing runs in it. Kept open for good."""
    line = ["unshare", "--user", "--", "/bin/sh", "-c", "echo; read -r _"]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": SYSTEM_PATH}, cwd=FIXED_FOLDER,
    ) as holder:  # fmt: skip
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.read(1) != b"\n":
                raise PermissionError(errno.EPERM, holder.stderr.read().decode().strip())
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{holder.pid}/{name}").write_text(_MAP)
            return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.stdin.close()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    return _check(_libc().syscall(number, *arguments), f"system call {number}")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
