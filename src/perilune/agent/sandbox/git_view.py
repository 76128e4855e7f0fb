"""The mounts that show a workspace's git directory to commands, what git obeys in it read-only.

Hooks and configuration are mounted read-only over the git directory, and it is a mount itself, as
are the folders on the way to it: a mount cannot be renamed or removed, so none can be put aside for
another. A git directory outside of the workspace is shown at its own path, and then the workspace
is too, for they name each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from perilune.agent.sandbox.git_folders import (
    Checkout,
    FolderScan,
    find_checkout,
    guarded_parts,
    read_small,
)
from perilune.agent.sandbox.host_git import run_git
from perilune.agent.sandbox.mounts import INSIDE, Mount
from perilune.agent.sandbox.protected import is_protected
from perilune.agent.sandbox.tracked import Surroundings, tracked_around

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
    """What is known of the git directories of one workspace."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.scan = FolderScan(workspace)
        self.checkout = find_checkout(workspace)
        self._around: tuple[int, Surroundings | None] = (0, None)

    @property
    def outside(self) -> Path | None:
        """The git directory outside of the workspace that commands use, if there is one."""
        checkout = self.checkout
        if checkout is None or checkout.common.is_relative_to(self.workspace):
            return None
        if any(_taken(path) for path in (self.workspace, checkout.common)):
            return None
        if checkout.top != self.workspace and self._surroundings(checkout) is None:
            return None
        return checkout.common

    def view(self) -> GitView:
        """What to show now."""
        outside = self.outside
        inside = INSIDE if outside is None else str(self.workspace)
        mounts: list[Mount] = []
        found = self.scan.git_dirs()[:MOST_GUARDED]
        around = Surroundings()
        if outside is not None and self.checkout is not None:
            mounts.append(Mount(outside, str(outside), writable=True))
            found += FolderScan(outside).git_dirs()[:MOST_GUARDED]
            if self.checkout.top != self.workspace:
                around = self._surroundings(self.checkout) or around
                mounts += [Mount(path, str(path)) for path in around.paths]
        for git_dir in found:
            mounts += self._guarded(git_dir, inside)
        entry = self.workspace / ".git"
        if entry in self.scan.files and not entry.is_symlink() and is_protected("git-config"):
            mounts.append(Mount(entry, f"{inside}/.git"))
        return GitView(
            inside, tuple(mounts), outside, frozenset(), tuple(around.links), tuple(around.empty)
        )

    def _guarded(self, git_dir: Path, inside: str) -> Iterator[Mount]:
        def at(path: Path) -> str:
            if path.is_relative_to(self.workspace):
                return f"{inside}/{path.relative_to(self.workspace)}".removesuffix("/.")
            return str(path)

        if not (is_protected("git-hooks") or is_protected("git-config")):
            return
        base = self.workspace
        if not git_dir.is_relative_to(base):
            assert self.checkout is not None
            base = self.checkout.common
        if git_dir.parent.name == "worktrees" and self._is_elsewhere(git_dir):
            yield from _way(git_dir, base, at)
            yield Mount(git_dir, at(git_dir))
            return
        if git_dir != base:
            yield from _way(git_dir, base, at)
            yield Mount(git_dir, at(git_dir), writable=True)
        for path in guarded_parts(git_dir, self.workspace).read_only:
            row = "git-hooks" if path.is_dir() else "git-config"
            if is_protected(row):
                yield from _way(path, base, at)
                yield Mount(path, at(path))

    def _is_elsewhere(self, worktree: Path) -> bool:
        """Whether a linked worktree's files lie outside of the workspace: not for commands here."""
        if self.checkout is not None and worktree == self.checkout.git_dir:
            return False
        place = (read_small(worktree / "gitdir") or "").strip()
        return not any(
            Path(place).is_relative_to(root) for root in (INSIDE, self.workspace) if place
        )

    def _surroundings(self, checkout: Checkout) -> Surroundings | None:
        """What is tracked around the workspace; asked again when the index changed."""
        try:
            changed = (checkout.git_dir / "index").stat().st_mtime_ns
        except OSError:
            changed = -1  # no index: nothing is tracked
        if self._around[0] != changed:
            said = run_git(["ls-files", "-z"], checkout.top)
            around = None
            if said is not None:
                names = said.decode("utf-8", "surrogateescape").split("\0")
                around = tracked_around(checkout.top, self.workspace, filter(None, names))
            self._around = changed, around
        return self._around[1]


def _way(path: Path, base: Path, at: Callable[[Path], str]) -> Iterator[Mount]:
    """The folders between `base` and a path: as mounts they cannot be moved aside."""
    if path.is_relative_to(base):
        for parent in [*reversed(path.relative_to(base).parents)][1:]:
            yield Mount(base / parent, at(base / parent), writable=True)


def _taken(path: Path) -> bool:
    return any(path.is_relative_to(each) for each in _TAKEN.split())
