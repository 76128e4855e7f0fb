"""Brings the changes of a run on a copy into its workspace, after the run: nothing is thrown away.

What the run did is read from the snapshot that was taken when it ended, or from the copy itself
where the run was cut off. A path that someone changed meanwhile is a conflict; it is left alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from perilune.agent.journal.journal import Journal, read_journal
from perilune.agent.journal.state import RunState, fold
from perilune.agent.loop.handing_over import PATCH
from perilune.agent.workspace.manifest import Manifest, SnapshotError
from perilune.agent.workspace.snapshot import SnapshotStore
from perilune.agent.workspace.working_copy import WorkingCopy
from perilune.errors import UsageError
from perilune.events import ChangesMade, SnapshotTaken

CONFLICTS = "conflicts.diff"


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a run's changes. `applied` and `conflicts` are files; `diff` is the patch of
    all of them, `rest` that of the conflicts where there are any."""

    run: str
    workspace: str
    files: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    diff: str = ""
    rest: str = ""
    patch: str = ""


def take_over(folder: Path, home: Path, *, dry_run: bool = False, partial: bool = False) -> Taken:
    """Apply the changes that the run in `folder` made in its copy to the workspace.

    With conflicts nothing is applied, or with `partial` all but those; their patch is written.
    Raises `UsageError` where the run left no changes, `SnapshotError` where they are lost.
    """
    state = fold(read_journal(folder).records)
    if dry_run:
        return _take_over(folder, home, state, None, partial)
    journal = Journal(folder)  # not while the run is at work
    try:
        taken = _take_over(folder, home, state, journal, partial)
        asyncio.run(journal.durable())
        return taken
    finally:
        journal.release()


def _take_over(
    folder: Path, home: Path, state: RunState, journal: Journal | None, partial: bool
) -> Taken:
    store = SnapshotStore(home)
    if state.copy is None or state.started is None:
        raise UsageError(
            f"run {folder.name} did not work on a copy, so it left nothing to apply",
            remedy="What it changed is in the workspace; `perilune trace undo` takes it back.",
        )
    if state.changes is not None and state.changes.applied:
        raise UsageError(f"the changes of run {folder.name} are in the workspace already")
    origin = Path(state.started.workspace)
    if not origin.is_dir():
        raise UsageError(f"the workspace {origin} no longer exists")
    copy = WorkingCopy(store, origin, Path(state.copy.folder), store.load(state.copy.base))
    changes = copy.difference(_ended(store, folder.name, copy))
    if not changes:
        raise UsageError(f"run {folder.name} changed nothing")
    present = store.take(origin, f"{folder.name}-before-apply")
    conflicts = copy.conflicts(changes, present)
    files = [each for each in conflicts if each in changes.files] or conflicts
    patch = folder / PATCH
    taken = Taken(folder.name, str(origin), changes.files, [], files, str(patch), "", changes.patch)
    if journal is None:
        return taken
    patch.write_text(changes.patch, "utf-8", "surrogateescape")
    rest = ""
    if conflicts:
        rest = str(folder / CONFLICTS)
        text = copy.patch_of([each for each in files if each in changes.files], changes)
        Path(rest).write_text(text, "utf-8", "surrogateescape")
    paths = [each for each in changes.paths if each not in conflicts]
    if conflicts and not partial:
        paths = []
    if paths:
        missed = store.put(origin, {path: changes.after.entries.get(path) for path in paths})
        if missed:
            raise SnapshotError(
                f"other files or folders occupy these paths: {', '.join(missed[:5])}"
            )
        after = store.take(origin, f"{folder.name}-after")
        done = [each for each in changes.files if each in paths]
        reason = "others changed the same paths meanwhile" if conflicts else ""
        journal.append(
            _snapshot(present, "before"),
            ChangesMade(
                applied=not conflicts,
                files=changes.files,
                diff=str(patch),
                conflicts=files,
                reason=reason,
                added=changes.added,
                removed=changes.removed,
            ),
            _snapshot(after, "after"),
        )
        return Taken(
            folder.name, str(origin), changes.files, done, files, str(patch), rest, changes.patch
        )
    return Taken(
        folder.name, str(origin), changes.files, [], files, str(patch), rest, changes.patch
    )


def _ended(store: SnapshotStore, run: str, copy: WorkingCopy) -> Manifest:
    """The state of the copy when the run ended."""
    kept = store.latest_of(f"{run}-copy")
    if kept is not None:
        return kept
    if not copy.folder.is_dir():
        raise SnapshotError(
            f"the copy in which run {run} worked is gone",
            remedy="Its conversation is in the journal: `perilune trace show`.",
        )
    return store.take(copy.folder, f"{run}-copy")


def _snapshot(manifest: Manifest, moment: str) -> SnapshotTaken:
    return SnapshotTaken(
        snapshot=manifest.id,
        files=len(manifest.entries),
        bytes=manifest.bytes,
        moment=moment,  # type: ignore[arg-type]  # "before" or "after"
    )
