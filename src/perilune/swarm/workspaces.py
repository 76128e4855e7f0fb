"""The workspace of a sub-agent: a copy of the orchestrator's, or an empty folder.

A sub-agent cannot touch the orchestrator's files. What it made or changed is found by comparison
and copied to where the orchestrator can read it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from perilune.errors import AgentError
from perilune.processes import FIXED_FOLDER, clean_environment, find_program
from perilune.sandbox.git_folders import stands_for

WorkspaceKind = Literal["copy", "empty"]
MOST_FILES, MOST_BYTES = 50_000, 1 << 30
"""A larger workspace is not copied for each sub-agent."""
KEPT_FILES, KEPT_BYTES = 200, 32 << 20
"""What is kept of one sub-agent's files; the rest is named and lost."""

Listing = dict[str, tuple[int, int]]
"""Size and time of change of each regular file, by relative path."""


def list_files(folder: Path) -> Listing:
    """The regular files below a folder."""
    return {
        str(path.relative_to(folder)): (status.st_size, status.st_mtime_ns)
        for path, status in _walk(folder)
    }


async def make_workspace(kind: WorkspaceKind, source: Path, target: Path) -> None:
    """Make a sub-agent's workspace, unless it is there already (a resumed run).

    Raises `AgentError` when the workspace is too large to be copied.
    """
    if kind == "copy":
        stands_for(target, source)
    if target.exists():
        return
    if kind == "empty":
        target.mkdir(parents=True)
        return
    files, size = 0, 0
    for _, status in _walk(source):
        files, size = files + 1, size + status.st_size
        if files > MOST_FILES or size > MOST_BYTES:
            raise AgentError(
                f"the workspace {source} is too large to copy for each sub-agent "
                f"(more than {MOST_FILES} files or {MOST_BYTES >> 20} MiB)",
                remedy="Use a smaller --workspace, or give sub-agents empty ones.",
            )
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    # cp shares blocks where the file system can, and keeps owners, links and times.
    process = await asyncio.create_subprocess_exec(
        find_program("cp") or "/bin/cp", "-a", "--reflink=auto", "--",
        str(source.absolute()), str(draft.absolute()), cwd=FIXED_FOLDER, env=clean_environment(),
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, problem = await process.communicate()
    if process.returncode != 0:
        shutil.rmtree(draft, ignore_errors=True)
        raise AgentError(f"the workspace could not be copied: {problem.decode(errors='replace')}")
    draft.replace(target)


def keep_changed(workspace: Path, before: Listing, target: Path) -> list[str]:
    """Copy what was made or changed since `before` to `target`; returns the paths that were kept.

    Links are not followed: a link could point at anything of this machine.
    """
    changed = [path for path, status in list_files(workspace).items() if before.get(path) != status]
    kept: list[str] = []
    room = KEPT_BYTES
    for path in sorted(changed)[:KEPT_FILES]:
        source = workspace / path
        size = source.stat().st_size
        if size > room:
            continue
        room -= size
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place, follow_symlinks=False)
        kept.append(path)
    return kept


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where) / name
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status
