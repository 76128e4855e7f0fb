"""Where root's workspace cannot be id-mapped (see `view.py`), it is lent to the dropped id.

Root's own entries change owner while sandboxes use the workspace; when the last of them ends, what
belongs to the dropped id, new files too, becomes root's. Each loan is a file that its users hold
locked, so a loan whose users were killed is found unlocked, and is given back at the next start.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from perilune.errors import SandboxError
from perilune.home import data_home
from perilune.sandbox.identity import DROPPED_UID
from perilune.sandbox.view import why_not_mapped


def why_lent(workspace: Path, keep: Sequence[Path] = ()) -> str:
    """Why root's workspace must be lent; empty when an id-mapped view of it will do.

    A view gives commands all of root's entries, so it is not for a workspace with files that no
    command may write, nor for one that is lent already.
    """
    if refused := why_not_mapped(workspace):
        return refused
    entries = [workspace.stat(), *(status for _, status, _ in _entries(workspace, keep))]
    if any(each.st_uid == DROPPED_UID for each in entries):
        return "some of it belongs to the sandbox's user"
    if _withheld(entries):
        return "a file in it is set-user-ID, set-group-ID, or hard-linked from outside"
    return ""


@dataclass(slots=True)
class Loan:
    """One sandbox's share in a loan; `give_back` ends it, and is not an error when done twice."""

    record: Path
    descriptor: int

    def give_back(self) -> None:
        """Return the workspace to root, unless another sandbox uses it still."""
        if self.descriptor < 0:
            return
        descriptor, self.descriptor = self.descriptor, -1
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _settle(self.record, descriptor)
        finally:
            os.close(descriptor)


def lend(workspace: Path, keep: Sequence[Path] = ()) -> Loan:
    """Give root's own entries of the workspace to the dropped id, so that commands can write.

    Entries of other users stay theirs, and so do files that no command may write; symbolic links
    are not followed; other file systems and the folders to `keep` are not entered. Raises
    `SandboxError` when it cannot be written down.
    """
    folder = data_home() / "lent"
    record = folder / f"{sha256(os.fsencode(workspace)).hexdigest()[:32]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = _locked(record)
        status = workspace.stat()
        content = {"workspace": str(workspace), "device": status.st_dev, "inode": status.st_ino}
        os.truncate(descriptor, os.pwrite(descriptor, json.dumps(content).encode("ascii"), 0))
        os.fsync(descriptor)
    except OSError as error:
        raise SandboxError(
            f"root's workspace {workspace} cannot be lent to the sandbox's user: {error}",
            remedy="Set PERILUNE_HOME to a folder that can be written, or run as a plain user.",
        ) from error
    loan = Loan(record, descriptor)
    withheld = _withheld(status for _, status, _ in _entries(workspace, keep))
    for name, status, here in _entries(workspace, keep):
        if status.st_uid == 0 and (status.st_dev, status.st_ino) not in withheld:
            os.chown(name, DROPPED_UID, -1, dir_fd=here, follow_symlinks=False)
    if workspace.stat().st_uid == 0:
        os.chown(workspace, DROPPED_UID, -1)
    return loan


def collect_loans() -> None:
    """Give back what sandboxes that were killed had borrowed."""
    for record in (data_home() / "lent").glob("*.json"):
        with suppress(OSError):
            descriptor = os.open(record, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _settle(record, descriptor)
            finally:
                os.close(descriptor)


def _locked(record: Path) -> int:
    """The loan's file, with a share in its lock; anew when its last user removed it just now."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(record, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(record.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _settle(record: Path, descriptor: int) -> None:
    """Give back the workspace that a loan names; its lock is ours alone."""
    with suppress(ValueError, KeyError, FileNotFoundError):  # nothing was lent yet; it is gone
        content = json.loads(os.pread(descriptor, 1 << 16, 0))
        workspace = Path(content["workspace"])
        status = workspace.lstat()
        if (status.st_dev, status.st_ino) == (content["device"], content["inode"]):
            for name, entry, here in _entries(workspace):
                _to_root(name, entry, here)
            _to_root(str(workspace), status)
    record.unlink(missing_ok=True)


def _to_root(name: str, status: os.stat_result, here: int | None = None) -> None:
    """Make the dropped id's root's; else leave it alone, for every chown may change a mode."""
    uid, gid = (0 if each == DROPPED_UID else -1 for each in (status.st_uid, status.st_gid))
    if (uid, gid) != (-1, -1):
        with suppress(FileNotFoundError):
            os.chown(name, uid, gid, dir_fd=here, follow_symlinks=False)


def _withheld(entries: Iterable[os.stat_result]) -> set[tuple[int, int]]:
    """Device and inode of root's files that no command may write: one that runs as its owner, or
    that has a name outside of the workspace too."""
    withheld: set[tuple[int, int]] = set()
    outside: dict[tuple[int, int], int] = {}
    for status in entries:
        if status.st_uid != 0 or not stat.S_ISREG(status.st_mode):
            continue
        file = status.st_dev, status.st_ino
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            withheld.add(file)
        elif status.st_nlink > 1:
            outside[file] = outside.get(file, status.st_nlink) - 1
    return withheld | {file for file, names in outside.items() if names}


def _entries(
    workspace: Path, keep: Sequence[Path] = ()
) -> Iterator[tuple[str, os.stat_result, int]]:
    """Name, status and the folder's descriptor of all in a workspace, on its own file system."""
    device = workspace.stat().st_dev
    kept = {(status.st_dev, status.st_ino) for status in (folder.stat() for folder in keep)}
    for _, folders, files, here in os.fwalk(workspace, follow_symlinks=False):
        entered = []
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
                if (status.st_dev, status.st_ino) in kept:
                    continue
                if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                    entered.append(name)
                yield name, status, here
        folders[:] = entered
