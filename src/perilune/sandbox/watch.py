"""Watches what a running command uses where no control group does: memory, and the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_tree(pid: int) -> Iterator[int]:
    """`pid` and all its descendants, as far as they live while we look.

    Inside a pid namespace an orphan becomes a child of the namespace's first process, so daemons
    stay in this tree too.
    """
    pending = [pid]
    while pending:
        current = pending.pop()
        yield current
        with contextlib.suppress(OSError):
            for task in os.scandir(f"/proc/{current}/task"):
                with contextlib.suppress(OSError):
                    children = Path(task.path, "children").read_text()
                    pending.extend(int(child) for child in children.split())


def tree_memory(pid: int) -> int:
    """Resident bytes of a process tree; cheap, but pages that forks share count several times."""
    return sum(_resident(each) for each in process_tree(pid))


def proportional_memory(pid: int) -> int:
    """Bytes of a process tree with shared pages counted once (PSS); slower than `tree_memory`."""
    return sum(_proportional(each) for each in process_tree(pid))


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def folder_size(folder: Path) -> int:
    """Bytes that the files of a folder take on its disk; links not followed, hard links once."""
    total = 0
    seen: set[int] = set()
    pending = [str(folder)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    total += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return total
