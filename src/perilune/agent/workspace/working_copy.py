"""A run that works on a copy of the workspace, and gives its changes over only when it succeeded.

The copy is made from a snapshot, so what it began with is known forever: the changes are the
difference to it, and a path that someone else changed meanwhile is a conflict. With one conflict
nothing at all is applied; the changes are kept as a patch.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perilune.agent.workspace.manifest import Entry, Manifest, same_entry
from perilune.agent.workspace.snapshot import SnapshotStore
from perilune.agent.workspace.workspace import SKIPPED
from perilune.sandbox.git_folders import stands_for

COPY_PREFIX = "perilune-copy-"
_LARGEST_SHOWN = 1 << 20


@dataclass(frozen=True, slots=True)
class Changes:
    """The paths that differ between the copy and what it began with, and all of them as a patch."""

    after: Manifest
    paths: list[str]
    files: list[str]
    patch: str
    added: int
    removed: int

    def __bool__(self) -> bool:
        return bool(self.paths)


@dataclass(slots=True)
class WorkingCopy:
    """`origin` is the workspace, `folder` the copy, `base` what both were in the beginning."""

    store: SnapshotStore
    origin: Path
    folder: Path
    base: Manifest
    made_again: bool = False

    @classmethod
    def make(cls, store: SnapshotStore, origin: Path, place: Path, name: str) -> WorkingCopy:
        """Copy a workspace. Raises `SnapshotError` when it cannot be kept."""
        base = store.take(origin, name)
        folder = open_place(place) / "workspace"
        store.lay_out(base, folder, mode_of=origin)
        stands_for(folder, origin)
        return cls(store, origin, folder, base)

    @classmethod
    def reopen(cls, store: SnapshotStore, origin: Path, folder: Path, base: str) -> WorkingCopy:
        """The copy of a run that is resumed; made again, without its changes, when it is gone."""
        manifest = store.load(base)
        gone = not folder.is_dir()
        if gone:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            store.lay_out(manifest, folder, mode_of=origin)
        stands_for(folder, origin)
        return cls(store, origin, folder, manifest, made_again=gone)

    def changes(self, name: str) -> Changes:
        """What the run has changed so far, but for machine-made folders (`.git`, `.venv`, ...)."""
        return self.difference(self.store.take(self.folder, name))

    def difference(self, after: Manifest) -> Changes:
        """What differs between what the copy began with and a later state of it."""
        paths = [
            path
            for path in sorted({*self.base.entries, *after.entries})
            if not SKIPPED.intersection(path.split("/"))
            and not same_entry(self.base.entries.get(path), after.entries.get(path))
        ]
        files = [p for p in paths if _kind(after, p) != "dir" and _kind(self.base, p) != "dir"]
        lines = [line for path in files for line in self._patch(path, after)]
        return Changes(
            after,
            paths,
            files,
            "".join(lines),
            sum(line.startswith("+") and not line.startswith("+++ ") for line in lines),
            sum(line.startswith("-") and not line.startswith("--- ") for line in lines),
        )

    def apply(self, changes: Changes, name: str) -> list[str]:
        """Bring the changes into the workspace; gives the conflicts, with which nothing is done.

        A path that already is as wanted is not a conflict, so that an apply which was cut off by a
        crash can be done again.
        """
        present = self.store.take(self.origin, name)
        conflicts = self.conflicts(changes, present)
        if conflicts:
            return conflicts
        return self.store.put(
            self.origin, {path: changes.after.entries.get(path) for path in changes.paths}
        )

    def conflicts(self, changes: Changes, present: Manifest) -> list[str]:
        """The changed paths that someone else has changed as well, and otherwise."""
        return [
            path
            for path in changes.paths
            if not same_entry(self.base.entries.get(path), present.entries.get(path))
            and not same_entry(changes.after.entries.get(path), present.entries.get(path))
        ]

    def patch_of(self, files: Sequence[str], changes: Changes) -> str:
        """The changes of some of the files, as a patch."""
        return "".join(line for path in files for line in self._patch(path, changes.after))

    def restored(self, paths: Sequence[str], place: Path, changes: Changes) -> Path:
        """A second copy, in which these paths are as they were in the beginning."""
        folder = place / "workspace"
        entries = dict(changes.after.entries)
        for path in paths:
            entry = self.base.entries.get(path)
            if entry is None:
                entries.pop(path, None)
            else:
                for parent in list(Path(path).parents)[-2::-1]:
                    entries.setdefault(str(parent), Entry("dir", "", 0o755))
                entries[path] = entry
        manifest = Manifest(changes.after.id, str(folder), changes.after.time, entries)
        self.store.lay_out(manifest, folder, mode_of=self.origin)
        stands_for(folder, self.origin)
        return folder

    def text(self, manifest: Manifest, path: str) -> str | None:
        """A file's text in one of the copy's states; None where it is absent, or no text."""
        lines = self._lines(manifest.entries.get(path))
        return "".join(lines) if lines is not None and path in manifest.entries else None

    def remove(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _patch(self, path: str, after: Manifest) -> Iterator[str]:
        old, new = self.base.entries.get(path), after.entries.get(path)
        before, behind = self._lines(old), self._lines(new)
        names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
        if before is None or behind is None:
            yield f"Binary files {names[0]} and {names[1]} differ\n"
            return
        for line in difflib.unified_diff(before, behind, *names):
            yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"

    def _lines(self, entry: Entry | None) -> list[str] | None:
        """The lines of a text; None for what is none."""
        if entry is None or entry.kind == "dir":
            return []
        if entry.kind == "link":
            return [f"-> {entry.content}\n"]
        if entry.size > _LARGEST_SHOWN:
            return None
        try:
            # At LF only, as `diff` and `patch` have it: no form feed, no U+2028.
            return re.findall(r"[^\n]*\n|[^\n]+", self.store.read(entry).decode("utf-8"))
        except UnicodeDecodeError:
            return None


def open_place(place: Path) -> Path:
    """A folder for a copy in which sandboxed commands can work.

    Root's commands run under another user id, which may not enter root's own folders; its copies
    are in the temporary folder, in one that nobody else can list.
    """
    if os.geteuid() == 0:
        place = Path(tempfile.mkdtemp(prefix=COPY_PREFIX))
    else:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.chmod(0o711)
    return place.resolve()


def _kind(manifest: Manifest, path: str) -> str:
    entry = manifest.entries.get(path)
    return entry.kind if entry else ""
