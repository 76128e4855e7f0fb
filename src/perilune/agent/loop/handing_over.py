"""A run on a copy: how it gets it, and how its changes get into the workspace or into a patch."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perilune.agent.endings import DONE
from perilune.agent.workspace.change_log import ChangeLog
from perilune.agent.workspace.working_copy import Changes, WorkingCopy
from perilune.events import ChangesMade, CopyMade, MessageReceived, SnapshotTaken

if TYPE_CHECKING:
    from perilune.agent.loop.run import Run
    from perilune.agent.workspace.manifest import Manifest
    from perilune.agent.workspace.snapshot import SnapshotStore

PATCH = "changes.diff"
LOST = (
    "The copy of the workspace in which you worked is gone. You are in a new one, without your "
    "changes. Look before you go on."
)


async def work_on_copy(run: Run, store: SnapshotStore) -> None:
    """Make the run's copy of its workspace, or find it again after a resume."""
    made = run.state.copy
    if made is not None:
        copy = await asyncio.to_thread(
            WorkingCopy.reopen, store, run.workspace, Path(made.folder), made.base
        )
        if copy.made_again:
            run.append(MessageReceived(content=LOST, mode="steer"))
    else:
        copy = await asyncio.to_thread(
            WorkingCopy.make, store, run.workspace, run.folder / "copy", run.id
        )
        run.append(CopyMade(folder=str(copy.folder), base=copy.base.id), taken(copy.base))
    run.copy, run.workspace = copy, copy.folder
    run.closers.append(partial(_tidy, run))


async def _tidy(run: Run) -> None:
    """The copy of a finished run is not needed any more; another one may be resumed in it."""
    finished = run.state.finished
    if run.copy is not None and finished is not None and finished.reason == DONE:
        await asyncio.to_thread(run.copy.remove)


def taken(manifest: Manifest) -> SnapshotTaken:
    """The snapshot that an undo goes back to."""
    return SnapshotTaken(
        snapshot=manifest.id, files=len(manifest.entries), bytes=manifest.bytes, moment="before"
    )


def _apply(run: Run, copy: WorkingCopy, changes: Changes) -> list[str]:
    """Apply, and note for undo that these changes are the run's, and what else changed is not."""
    name = f"{run.id}-before-apply"
    if run.snapshots is None or not run.state.snapshot_before:
        return copy.apply(changes, name)
    if run.changes is None:
        run.changes = ChangeLog(run.snapshots, run.id, copy.origin, run.state.snapshot_before)
    run.changes.begin()
    try:
        return copy.apply(changes, name)
    finally:
        run.changes.end()


async def hand_over(run: Run, copy: WorkingCopy, problem: str) -> str:
    """Apply the copy's changes, unless there is a problem; words on the conflict, if there is one.

    The patch is in the run's folder in any case.
    """
    changes = await asyncio.to_thread(copy.changes, f"{run.id}-copy")
    if not changes:
        return ""
    patch = run.folder / PATCH
    await asyncio.to_thread(patch.write_text, changes.patch, "utf-8", "surrogateescape")
    conflicts: list[str] = []
    if not problem:
        conflicts = await asyncio.to_thread(_apply, run, copy, changes)
    run.append(
        ChangesMade(
            applied=not problem and not conflicts,
            files=changes.files,
            diff=str(patch),
            conflicts=conflicts,
            reason=problem or ("others changed the same paths meanwhile" if conflicts else ""),
            added=changes.added,
            removed=changes.removed,
        )
    )
    if not problem and not conflicts:
        # A next task begins with what this one gave.
        copy.base = changes.after
        run.append(CopyMade(folder=str(copy.folder), base=copy.base.id))
    if not conflicts:
        return ""
    return (
        f"nothing was applied, for {', '.join(conflicts[:5])} changed meanwhile; the changes are "
        f"in {patch}"
    )
