"""Where a workspace's git directory lies, and which parts of git directories must stay as they are.

A workspace may be a checkout, a folder in one, a linked worktree or a submodule; then the git
directory lies outside of it. It is shown to commands only when it says itself that the workspace
belongs to it, for a `.git` file can name anything. Sources: `gitrepository-layout(5)`,
`git-worktree(1)` ("Details"), `gitsubmodules(7)`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from perilune.sandbox.git_config import read_settings, setting
from perilune.sandbox.protected import asked_about

_LONGEST = 1 << 16

_origins: dict[Path, Path] = {}


def stands_for(copy: Path, origin: Path) -> None:
    """A workspace is a copy of another one, so that git shows what that other one is a part of."""
    _origins[copy.resolve()] = origin_of(origin.resolve())


def origin_of(workspace: Path) -> Path:
    """What a workspace is a copy of; itself when it is none."""
    return _origins.get(workspace, workspace)


@dataclass(frozen=True, slots=True)
class Checkout:
    """`top` holds `.git`; `git_dir` is the checkout's own (HEAD, index), `common` holds objects,
    configuration and hooks."""

    top: Path
    git_dir: Path
    common: Path


def find_checkout(workspace: Path) -> Checkout | None:
    """The checkout that a workspace (a real path) is or is in; None when there is none to trust.

    The home folder and what holds it are not looked at: a repository of a whole home is not shown.
    """
    home = Path.home().resolve()
    device = workspace.stat().st_dev
    for folder in (workspace, *workspace.parents):
        if folder != workspace and (folder == home or folder in home.parents):
            return None
        if folder.stat().st_dev != device:
            return None
        entry = folder / ".git"
        try:
            mode = entry.lstat().st_mode
        except OSError:
            continue
        if workspace.is_relative_to(entry):
            return None
        if stat.S_ISDIR(mode):
            trusted = (
                is_git_dir(entry) and not (entry / "commondir").exists() and _ours(entry, workspace)
            )
            return Checkout(folder, entry, entry) if trusted else None
        return _linked(folder, entry, workspace) if stat.S_ISREG(mode) else None
    return None


def _linked(top: Path, entry: Path, workspace: Path) -> Checkout | None:
    """What a `.git` file names: a worktree's or a submodule's directory that names it back."""
    text = read_small(entry)
    if text is None or not text.startswith("gitdir:"):
        return None
    git_dir = _resolved(top, text.removeprefix("gitdir:").strip())
    if git_dir is None or not git_dir.is_dir() or not _ours(git_dir, workspace):
        return None
    common_text = read_small(git_dir / "commondir")
    if common_text is not None:
        common = _resolved(git_dir, common_text.strip())
        back = _resolved(git_dir, (read_small(git_dir / "gitdir") or "").strip())
        fits = git_dir.parent.name == "worktrees" and git_dir.parent.parent == common
        if common is None or not fits or back != entry or not is_git_dir(common):
            return None
        return Checkout(top, git_dir, common)
    named = setting(read_small(git_dir / "config") or "", "core.worktree")
    if is_git_dir(git_dir) and named and _resolved(git_dir, named) == top:
        return Checkout(top, git_dir, git_dir)
    return None


def is_git_dir(folder: Path) -> bool:
    """Whether git would take a folder for a git directory."""
    with suppress(OSError):
        return looks_like_git(os.listdir(folder))  # noqa: PTH208
    return False


def looks_like_git(names: Iterable[str]) -> bool:
    """The same, by the names in it: HEAD, and objects and refs here or by `commondir`."""
    there = set(names)
    return "HEAD" in there and ({"objects", "refs"} <= there or "commondir" in there)


class FolderScan:
    """Every git directory in a workspace: `.git` folders, bare ones, submodules', worktrees'.

    Symbolic links are not followed, and a git directory's own store is not entered. A folder whose
    time of change (which no program can set) is as before is not read again.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._known: dict[str, _Folder] = {}
        self.files: list[Path] = []
        """The `.git` files, as worktrees and submodules have them, and links of that name."""
        self.asked: list[Path] = []
        """What a file tool would ask about (see `protected.py`)."""

    def git_dirs(self) -> list[Path]:
        """Look again; the folders come in order of their names."""
        found: list[Path] = []
        self.files, self.asked = [], []
        seen: dict[str, _Folder] = {}
        pending = [str(self._workspace)]
        while pending:
            where = pending.pop()
            entry = self._read(where)
            if entry is None:
                continue
            seen[where] = entry
            if entry.is_git:
                found.append(Path(where))
            self.files += [Path(where, name) for name in entry.dot_git]
            self.asked += [Path(where, name) for name in entry.asked]
            pending += [
                f"{where}/{name}" for name in entry.folders if not (entry.is_git and name in _STORE)
            ]
        self._known = seen
        return sorted(found)

    def _read(self, where: str) -> _Folder | None:
        try:
            changed = os.lstat(where).st_ctime_ns
            known = self._known.get(where)
            if known is not None and known.changed == changed:
                return known
            with os.scandir(where) as entries:
                names = {each.name: each.is_dir(follow_symlinks=False) for each in entries}
        except OSError:
            return None
        if time.time_ns() - changed < _GRAIN:
            changed = 0  # it may change again within the grain of its time
        return _Folder(
            changed,
            looks_like_git(names),
            [name for name, is_dir in names.items() if is_dir],
            [name for name, is_dir in names.items() if name.lower() == ".git" and not is_dir],
            [name for name in names if asked_about(name)],
        )


class _Folder(NamedTuple):
    """What is known of a folder, and when it last changed (ns)."""

    changed: int
    is_git: bool
    folders: list[str]
    dot_git: list[str]
    asked: list[str]


_GRAIN = 2_000_000_000
_STORE = frozenset({"objects", "refs", "logs", "hooks", "info", "lfs"})


def guarded_parts(git_dir: Path, workspace: Path) -> list[Path]:
    """What in a git directory, or named by its configuration, decides what git runs.

    A folder of hooks, and a configuration of a worktree where that is switched on, are made when
    they are missing, empty, so that nobody else can make them.
    """
    common = (git_dir / "commondir").exists()
    read_only = [git_dir / name for name in ("config", "commondir", "gitdir", "config.worktree")]
    text = read_small(git_dir / "config") or ""
    if not common:
        _make(git_dir, "hooks", folder=True)
        _make(git_dir, "config")
        read_only.append(git_dir / "hooks")
        if setting(text, "extensions.worktreeconfig").lower() in ("true", "yes", "on", "1"):
            _make(git_dir, "config.worktree")
    read_only += _named_files(text, git_dir, workspace)
    kept = [path for path in read_only if path.exists() and not path.is_symlink()]
    return list(dict.fromkeys(kept))


def _named_files(text: str, git_dir: Path, workspace: Path) -> Iterator[Path]:
    """Files and folders of the workspace that a configuration includes, or takes hooks from."""
    tops = (git_dir.parent, git_dir, workspace)
    for name, value in read_settings(text):
        included = name.startswith("include") and name.endswith(".path")
        if included or name == "core.hookspath":
            for base in (git_dir,) if included else tops:
                path = _resolved(base, value)
                if path and path.exists() and path != workspace and path.is_relative_to(workspace):
                    yield path


def read_small(path: Path) -> str | None:
    """The text of a small regular file; links are not followed. None for anything else."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(file, "rb") as stream:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        data = stream.read(_LONGEST + 1)
    return data.decode("utf-8", "surrogateescape") if len(data) <= _LONGEST else None


def _make(git_dir: Path, name: str, *, folder: bool = False) -> None:
    """Make a missing entry of a git directory, owned as the directory is."""
    with suppress(OSError):
        here = os.open(git_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if folder:
                os.mkdir(name, 0o755, dir_fd=here)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=here))
            if os.geteuid() == 0:
                owner = os.fstat(here)
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)


def _resolved(base: Path, text: str) -> Path | None:
    if not text or "\0" in text:
        return None
    with suppress(OSError, RuntimeError, ValueError):
        return (base / Path(text).expanduser()).resolve()
    return None


def _ours(git_dir: Path, workspace: Path) -> bool:
    """Whether the user owns it; for root, the owner of the workspace may."""
    owner = git_dir.stat().st_uid
    return owner == os.geteuid() or (os.geteuid() == 0 and owner == workspace.stat().st_uid)
