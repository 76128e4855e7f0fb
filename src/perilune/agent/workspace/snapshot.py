"""Snapshots of a workspace, and undo: the files as they were before a run's first write.

A snapshot is a manifest (path -> kind, content hash, mode) over a content store that all runs
share, so a file is stored once however many runs see it. Undo first takes a snapshot of the
present, so that undo can be undone; it puts back what the run changed and leaves alone what someone
changed after the run. No file's content is ever dropped.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from perilune.agent.workspace.manifest import (
    Entry,
    Manifest,
    SnapshotError,
    read_manifest,
    same_entry,
)

MOST_BYTES = 4 << 30
MOST_FILES = 200_000
FICLONE = 0x40049409
"""The ioctl that shares a file's blocks copy-on-write (btrfs, xfs): linux/fs.h."""
RACY_NANOSECONDS = 2_000_000_000
"""A file changed so shortly before a snapshot may change again within its time stamp's grain."""


@dataclass(slots=True)
class Undone:
    """What an undo did, or with `dry` would do. `before` is the snapshot of the moment before it,
    for the way back.

    `kept` was changed after the run and left alone (`why`, in words, by path); `copies` are files
    that were laid beside, each with the path whose version it is; `others` are paths that only
    others changed.
    """

    before: str
    restored: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    dry: bool = False


class SnapshotStore:
    """Snapshots below `home/snapshots`."""

    def __init__(
        self, home: Path, *, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES
    ) -> None:
        self._home = home.resolve()
        self._folder = self._home / "snapshots"
        self._objects = self._folder / "objects"
        self._most_bytes = most_bytes
        self._most_files = most_files

    def take(self, workspace: Path, name: str) -> Manifest:
        """Store the workspace's present state under `name` (made unique) and return it.

        Symbolic links are stored as links; sockets and devices are not stored. Raises
        `SnapshotError` when the workspace is larger than the limits, or cannot be stored.
        """
        try:
            return self._take(workspace.resolve(), name)
        except OSError as error:
            raise SnapshotError(
                f"the workspace {workspace} cannot be snapshotted: {error}",
                remedy=f"Make room on the disk of {self._folder}, or use --no-snapshot.",
            ) from error

    def _take(self, workspace: Path, name: str) -> Manifest:
        self._objects.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache = self._latest(workspace)
        entries: dict[str, Entry] = {}
        unread: list[str] = []
        total = 0
        now = time.time_ns()
        for path, status in self._walk(workspace, unread):
            relative = str(path.relative_to(workspace))
            if stat.S_ISREG(status.st_mode):
                total += status.st_size
            if total > self._most_bytes or len(entries) >= self._most_files:
                raise SnapshotError(
                    f"the workspace {workspace} is too large for a snapshot "
                    f"(over {self._most_bytes >> 20} MiB or {self._most_files} files)",
                    remedy="Work in a smaller folder (--workspace), or go without undo "
                    "(--no-snapshot).",
                )
            try:
                entry = self._entry(path, status, cache.get(relative), now)
            except _UnreadableError:
                unread.append(relative)
                continue
            if entry is not None:
                entries[relative] = entry
        manifest = Manifest(
            id=f"{name}-{secrets.token_hex(3)}",
            workspace=str(workspace),
            time=now,
            entries=entries,
            unread=unread,
        )
        self._write(self._manifest_path(manifest.id), manifest)
        self._write(self._latest_path(workspace), manifest)
        return manifest

    def load(self, snapshot: str) -> Manifest:
        try:
            return read_manifest(self._manifest_path(snapshot))
        except (OSError, ValueError) as error:
            raise SnapshotError(f"snapshot {snapshot!r} cannot be read: {error}") from error

    def latest_of(self, name: str) -> Manifest | None:
        """The last snapshot that was taken under this name; None where there is none."""
        found = []
        for path in (self._folder / "manifests").glob(f"{glob.escape(name)}-*.json"):
            if re.fullmatch(r"-[^-]*", path.stem.removeprefix(name)) is not None:
                with suppress(OSError, ValueError):
                    found.append(read_manifest(path))
        return max(found, key=lambda each: each.time, default=None)

    def undo(self, before: str, after: str = "", *, force: bool = False) -> Undone:
        """Bring the workspace back to snapshot `before`.

        Paths that differ between `after` (the state when the run ended) and now were changed by
        someone else; they are kept as they are unless `force`. With no `after`, all differences
        count as the run's.
        """
        wanted = self.load(before)
        root = Path(wanted.workspace)
        if not root.is_dir():
            raise SnapshotError(f"the workspace {root} no longer exists")
        present = self.take(root, "undo")
        ended = self.load(after) if after else present
        undone = Undone(before=present.id)
        change: list[str] = []
        for path in sorted({*wanted.entries, *present.entries}):
            was, now = wanted.entries.get(path), present.entries.get(path)
            if same_entry(was, now) or path in wanted.unread or path in present.unread:
                continue
            if not force and not same_entry(ended.entries.get(path), now):
                undone.kept.append(path)
            else:
                change.append(path)
        for path in reversed(change):  # children before their folders
            if path in present.entries and self._clear(root, path, wanted.entries.get(path)):
                undone.removed.append(path)
        for path in change:
            entry = wanted.entries.get(path)
            if entry is not None:
                target = undone.restored if self._restore(root, path, entry) else undone.kept
                target.append(path)
        undone.removed = [path for path in reversed(undone.removed) if path not in wanted.entries]
        return undone

    def lay_out(self, manifest: Manifest, folder: Path, *, mode_of: Path) -> None:
        """Make a folder with all that a snapshot holds; as root, owned as `mode_of` is."""
        folder.mkdir(parents=True, exist_ok=True)
        status = mode_of.stat()
        folder.chmod(stat.S_IMODE(status.st_mode) | 0o700)
        if os.geteuid() == 0:
            os.chown(folder, status.st_uid, status.st_gid)
        self.put(folder, dict(manifest.entries))

    def put(
        self, root: Path, entries: dict[str, Entry | None], *, as_owner: bool = True
    ) -> list[str]:
        """Make paths as these entries say, None being absent; gives those that could not be.

        As root, what it makes is owned as `root` is, with `as_owner`.
        """
        missed: list[str] = []
        for path in sorted(entries, reverse=True):  # children before their folders
            self._clear(root, path, entries[path])
        for path in sorted(entries):
            entry = entries[path]
            if entry is not None and not self._restore(root, path, entry):
                missed.append(path)
            elif entry is not None and as_owner and os.geteuid() == 0:
                owner = root.stat()
                os.chown(root / path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        return missed

    def read(self, entry: Entry) -> bytes:
        """The content of a file's entry."""
        return self._object(entry.content).read_bytes()

    def scan(self, workspace: Path, known: dict[str, Entry]) -> tuple[dict[str, Entry], set[str]]:
        """What a workspace holds now, and what could not be read of it; contents that differ from
        `known` are stored. Raises `SnapshotError` when they cannot be."""
        entries: dict[str, Entry] = {}
        unread: set[str] = set()
        try:
            self._scan(str(workspace), "", known, time.time_ns(), entries, unread)
        except OSError as error:
            raise SnapshotError(
                f"the changes in {workspace} cannot be kept: {error}",
                remedy=f"Make room on the disk of {self._folder}, or use --no-snapshot.",
            ) from error
        return entries, unread

    def _scan(
        self,
        folder: str,
        prefix: str,
        known: dict[str, Entry],
        now: int,
        entries: dict[str, Entry],
        unread: set[str],
    ) -> None:
        """One folder of `scan`. It is done around every call, so that a file that did not change
        costs a stat and no object of pathlib's."""
        try:
            with os.scandir(folder) as found:
                children = list(found)
        except FileNotFoundError:
            return
        except PermissionError:
            unread.add(prefix.rstrip("/"))
            return
        for child in children:
            name = prefix + child.name
            try:
                status = child.stat(follow_symlinks=False)
                old = known.get(name)
                stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                same = old is not None and old.kind == "file" and old.stamp == stamp
                if same and now - status.st_ctime_ns >= RACY_NANOSECONDS:
                    assert old is not None
                    entries[name] = old
                    continue
                if child.path == str(self._home):
                    continue
                entry = self._entry(Path(child.path), status, old, now)
            except FileNotFoundError:
                continue
            except _UnreadableError:
                unread.add(name)
                continue
            if entry is not None:
                entries[name] = entry
                if entry.kind == "dir":
                    self._scan(child.path, f"{name}/", known, now, entries, unread)

    def changes_path(self, run: str) -> Path:
        """Where the change log of a run is."""
        return self._folder / "changes" / f"{run}.jsonl"

    def find(self, name: str) -> str:
        """The id of the newest snapshot that was taken under `name`; "" when there is none."""
        found = list((self._folder / "manifests").glob(f"{name}-??????.json"))
        return max(found, key=lambda path: path.stat().st_mtime_ns).stem if found else ""

    def forget(self, name: str) -> int:
        """Drop the snapshots taken under `name`, and contents that no other needs; bytes freed."""
        for path in (self._folder / "manifests").glob(f"{name}-*.json"):
            path.unlink()
        self.changes_path(name).unlink(missing_ok=True)
        needed: set[str] = set()
        for log in self._folder.glob("changes/*.jsonl"):
            needed |= set(_DIGEST.findall(log.read_bytes().decode("ascii", "replace")))
        for path in self._folder.glob("*/*.json"):
            with suppress(OSError, ValueError):
                needed |= {entry.content for entry in read_manifest(path).entries.values()}
        freed = 0
        for path in self._objects.glob("??/*"):
            status = path.stat()
            # A run at work may have stored a file whose manifest is not written yet.
            if path.name not in needed and time.time() - status.st_mtime > 3600:
                freed += status.st_size
                path.unlink()
        return freed

    # --- taking ---

    def _walk(self, workspace: Path, unread: list[str]) -> Iterator[tuple[Path, os.stat_result]]:
        """Every path below the workspace but our own store; folders before what is in them."""

        def unreadable(error: OSError) -> None:
            unread.append(os.path.relpath(error.filename, workspace))

        for folder, names, files in os.walk(workspace, onerror=unreadable):
            names[:] = sorted(n for n in names if Path(folder, n) != self._home)
            for name in (*names, *sorted(files)):
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    yield path, path.lstat()

    def _entry(
        self, path: Path, status: os.stat_result, known: Entry | None, now: int
    ) -> Entry | None:
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            try:
                return Entry("link", str(path.readlink()))
            except OSError as error:
                raise _UnreadableError from error
        if stat.S_ISDIR(status.st_mode):
            return Entry("dir", "", mode)
        if not stat.S_ISREG(status.st_mode):
            return None
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        fresh = now - status.st_ctime_ns < RACY_NANOSECONDS
        if known is not None and not fresh and (known.size, known.stamp) == (status.st_size, stamp):
            content = known.content
            if self._object(content).exists():
                return Entry("file", content, mode, status.st_size, stamp)
        return Entry("file", self._store(path), mode, status.st_size, stamp)

    def _store(self, path: Path) -> str:
        """Copy a file into the content store (sharing its blocks where that can be done)."""
        draft = self._objects / f"draft-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with _open_to_read(path) as source, draft.open("x+b") as copy:
                digest = _copy(source.fileno(), copy.fileno())
            target = self._object(digest)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                draft.chmod(0o400)
                draft.rename(target)
            return digest
        finally:
            draft.unlink(missing_ok=True)

    # --- restoring ---

    def _clear(self, root: Path, path: str, wanted: Entry | None) -> bool:
        """Take away what stands at `path`, if it is of another kind than wanted or not wanted."""
        place = root / path
        if not _inside(root, place):
            return False
        if place.is_dir() and not place.is_symlink():
            if wanted is not None and wanted.kind == "dir":
                return False
            with suppress(OSError):  # not empty: something in it is kept
                place.rmdir()
                return True
            return False
        if wanted is not None and wanted.kind == "file" and not place.is_symlink():
            return False  # replaced in one move, not removed
        place.unlink(missing_ok=True)
        return True

    def _restore(self, root: Path, path: str, entry: Entry) -> bool:
        """Put `entry` back; False when something that is kept stands in its way."""
        place = root / path
        if not _inside(root, place):
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            if entry.kind == "dir":
                place.mkdir(exist_ok=True)
                place.chmod(entry.mode)
            elif entry.kind == "link":
                place.symlink_to(entry.content)
            else:
                self._restore_file(place, entry)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            return False
        return True

    def _restore_file(self, place: Path, entry: Entry) -> None:
        draft = place.with_name(f".perilune-{secrets.token_hex(6)}")
        try:
            with self._object(entry.content).open("rb") as source, draft.open("x+b") as copy:
                _copy(source.fileno(), copy.fileno())
            draft.chmod(entry.mode)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)

    # --- files of the store ---

    def _object(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest

    def _manifest_path(self, snapshot: str) -> Path:
        if "/" in snapshot or snapshot.startswith("."):
            raise SnapshotError(f"{snapshot!r} is not the name of a snapshot")
        return self._folder / "manifests" / f"{snapshot}.json"

    def _latest_path(self, workspace: Path) -> Path:
        name = hashlib.sha256(str(workspace).encode()).hexdigest()[:24]
        return self._folder / "latest" / f"{name}.json"

    def _latest(self, workspace: Path) -> dict[str, Entry]:
        """The last manifest of this workspace, which spares hashing what did not change."""
        try:
            return read_manifest(self._latest_path(workspace)).entries
        except (OSError, ValueError):
            return {}

    def _write(self, path: Path, manifest: Manifest) -> None:
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        with draft.open("wb") as file:
            file.write(json.dumps(msgspec.to_builtins(manifest)).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class _UnreadableError(Exception):
    """A file of the workspace that we may not read; what cannot be stored is another matter."""


def _open_to_read(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise _UnreadableError from error


def _inside(root: Path, place: Path) -> bool:
    """No folder on the way is a link, so that nothing outside the workspace is touched."""
    return not any(
        parent.is_symlink() for parent in place.parents if parent != root and root in parent.parents
    )


def _copy(source: int, target: int) -> str:
    """Copy between open files; returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    try:
        fcntl.ioctl(target, FICLONE, source)
        cloned = True
    except OSError:
        cloned = False
    read_from = target if cloned else source
    while block := os.read(read_from, 1 << 20):
        digest.update(block)
        if not cloned:
            view = memoryview(block)
            while view:
                view = view[os.write(target, view) :]
    return digest.hexdigest()
