"""The mounts that show a workspace's git directory to commands, what git obeys in it read-only.

Hooks and configuration are mounted read-only over the git directory, and it is a mount itself, as
are the folders on the way to it: a mount cannot be renamed or removed, so none can be put aside for
another. A git directory outside of the workspace is shown at its own path, and then the workspace
is too, for they name each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from perilune.sandbox.git_folders import (
    Checkout,
    FolderScan,
    find_checkout,
    guarded_parts,
    origin_of,
    read_small,
)
from perilune.sandbox.host_git import run_git
from perilune.sandbox.mounts import INSIDE, Mount
from perilune.sandbox.protected import is_protected
from perilune.sandbox.tracked import Surroundings, tracked_around

MOST_GUARDED = 64
"""Git directories that are mounted; any more are looked at when a command has ended."""

# What a sandbox has of its own: nothing of the host is shown in there.
_TAKEN = "/bin /dev /etc /lib /lib32 /lib64 /proc /run /sbin /sys /usr /mnt /workspace /tmp/home"


@dataclass(frozen=True, slots=True)
class GitView:
    """`inside`: where commands see the workspace. `mapped` are folders outside of the workspace
    that root shows id-mapped; `links` (target, path) and `empty` folders are made inside."""

    inside: str = INSIDE
    mounts: tuple[Mount, ...] = ()
    outside: Path | None = None
    mapped: frozenset[Path] = field(default_factory=frozenset)
    links: tuple[tuple[str, str], ...] = ()
    empty: tuple[str, ...] = ()

    @property
    def fixed(self) -> frozenset[Path]:
        """What no command could change: the sources of its read-only mounts."""
        return frozenset(each.source for each in self.mounts if not each.writable)


class GitWatch:
    """What is known of the git directories of one workspace.

    A copy of a workspace that has no git directory of its own is shown in the place of the original
    with the original's git directory, read-only: what a run does in a copy must not be seen yet.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.scan = FolderScan(workspace)
        self.place = workspace
        self.checkout: Checkout | None = None
        origin = origin_of(workspace)
        if origin == workspace:
            self.checkout = find_checkout(workspace)
        elif not (workspace / ".git").is_dir():
            self.place, self.checkout = origin, find_checkout(origin)
        self._around: tuple[int, Surroundings | None] = (0, None)

    @property
    def is_copy(self) -> bool:
        return self.place != self.workspace

    @property
    def outside(self) -> Path | None:
        """The git directory outside of the workspace that commands use, if there is one."""
        checkout = self.checkout
        if checkout is None or checkout.common.is_relative_to(self.place):
            return None
        if any(_taken(path) for path in (self.place, checkout.common)):
            return None
        if checkout.top != self.place and self.surroundings() is None:
            return None
        return checkout.common

    def view(self) -> GitView:
        """What to show now."""
        outside = self.outside
        inside = INSIDE if outside is None else str(self.place)
        mounts: list[Mount] = []
        found = self._first(self.scan.git_dirs())
        around = Surroundings()
        if outside is not None:
            mounts.append(Mount(outside, str(outside), writable=not self.is_copy))
            if not self.is_copy:
                found += FolderScan(outside).git_dirs()[:MOST_GUARDED]
            around = self.surroundings() or around
            mounts += [Mount(path, str(path)) for path in around.paths]
            entry = self.checkout.top / ".git" if self.checkout is not None else outside
            if entry != outside and self.checkout is not None and self.checkout.top != self.place:
                mounts.append(Mount(entry, str(entry)))  # a file that names the worktree's folder
        for git_dir in found:
            mounts += self._guarded(git_dir, inside)
        if is_protected("git-config"):
            for entry in self.scan.files[:MOST_GUARDED]:
                if not entry.is_symlink():
                    at = f"{inside}/{entry.relative_to(self.workspace)}"
                    mounts += _way(entry, self.workspace, inside)
                    mounts.append(Mount(entry, at))
        links, empty = tuple(around.links), tuple(around.empty)
        return GitView(inside, tuple(mounts), outside, links=links, empty=empty)

    def _first(self, git_dirs: list[Path]) -> list[Path]:
        """The workspace's own first, however many others a command made."""
        own = self.workspace / ".git"
        order = sorted(git_dirs, key=lambda each: (each != own, own not in each.parents, each))
        return order[:MOST_GUARDED]

    def surroundings(self) -> Surroundings | None:
        """What is tracked around the workspace; asked again when the index changed.

        None when it cannot be told, or is too much to be shown.
        """
        checkout = self.checkout
        if checkout is None or checkout.top == self.place:
            return Surroundings()
        try:
            changed = (checkout.git_dir / "index").stat().st_mtime_ns
        except OSError:
            changed = -1  # no index: nothing is tracked
        if self._around[0] != changed:
            said = run_git(["ls-files", "-z"], checkout.top)
            around = None
            if said is not None:
                names = said.decode("utf-8", "surrogateescape").split("\0")
                around = tracked_around(checkout.top, self.place, filter(None, names))
            self._around = changed, around
        return self._around[1]

    def _guarded(self, git_dir: Path, inside: str) -> Iterator[Mount]:
        """The mounts that keep a git directory's place and what git obeys in it."""
        base, seen_at = self.workspace, inside
        if not git_dir.is_relative_to(base):
            assert self.checkout is not None
            base = self.checkout.common
            seen_at = str(base)

        def at(path: Path) -> str:
            return f"{seen_at}/{path.relative_to(base)}" if path != base else seen_at

        if not (is_protected("git-hooks") or is_protected("git-config")):
            return
        if git_dir != base:
            foreign = git_dir.parent.name == "worktrees" and self._is_elsewhere(git_dir)
            yield from _way(git_dir, base, seen_at)
            yield Mount(git_dir, at(git_dir), writable=not foreign)
            if foreign:
                return
        for path in guarded_parts(git_dir, self.workspace):
            row = "git-hooks" if path.is_dir() else "git-config"
            if is_protected(row) and path.is_relative_to(base):
                yield from _way(path, base, seen_at)
                yield Mount(path, at(path))

    def _is_elsewhere(self, worktree: Path) -> bool:
        """Whether a linked worktree's files lie outside of the workspace: not for commands here."""
        if self.checkout is not None and worktree == self.checkout.git_dir:
            return False
        place = (read_small(worktree / "gitdir") or "").strip()
        there = self.on_host(Path(place))
        return not (there.is_relative_to(self.workspace) and there.exists())

    def on_host(self, path: Path) -> Path:
        """A path as commands may have written it, as it is on the host."""
        if path.is_relative_to(INSIDE):
            return self.workspace / path.relative_to(INSIDE)
        return path


def _way(path: Path, base: Path, seen_at: str) -> Iterator[Mount]:
    """The folders between `base` and a path: as mounts they cannot be moved aside."""
    for parent in [*reversed(path.relative_to(base).parents)][1:]:
        yield Mount(base / parent, f"{seen_at}/{parent}", writable=True)


def _taken(path: Path) -> bool:
    return any(path.is_relative_to(each) for each in _TAKEN.split())
