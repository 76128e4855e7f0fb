"""After a command: what it made that git would obey, where no mount could keep it from that.

A git directory that is new (`git init`, a bare one, a `commondir`) has no mounts over it yet, and
landlock has none at all. So what is dangerous in git directories is noted before a command and
looked at after it: what is new is taken back, and what is harmless (as `git init` writes it) stays.
Until then the user's own git could meet it: docs/sandbox.md says so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perilune.sandbox.git_config import dangerous_settings, harmless_text
from perilune.sandbox.git_folders import FolderScan, read_small
from perilune.sandbox.git_view import GitView, GitWatch
from perilune.sandbox.protected import is_protected, row_of

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SET_ASIDE = ".set-aside"


@dataclass(frozen=True, slots=True)
class Found:
    """A file that git obeys: what is dangerous in it, and its text where it can be put back."""

    dangers: frozenset[str]
    text: str | None
    is_config: bool = False


class GitGuard:
    """What git would obey in one workspace, before a command; `settle` looks again."""

    def __init__(self, watch: GitWatch, view: GitView, *, by_mounts: bool) -> None:
        self._watch = watch
        self._fixed = view.fixed if by_mounts else frozenset()
        self._roots = [watch.workspace]
        if view.outside is not None and not watch.is_copy:
            self._roots.append(view.outside)
        self._before = self._look()
        self._asked = _stamps(watch.scan.asked)

    def settle(self) -> list[str]:
        """Take back what is new and dangerous; says what was done, and what else runs by itself.

        It may be called again, for a process that lives on.
        """
        if not self._watch.workspace.is_dir():
            return []
        said = []
        now = self._look()
        for path, found in now.items():
            before = self._before.get(path)
            new = found.dangers - (before.dangers if before else frozenset())
            if not new or any(path.is_relative_to(each) for each in self._fixed):
                continue
            with contextlib.suppress(OSError):
                self._take_back(path, found, before)
                what = ", ".join(sorted(new)[:3])
                said.append(f"{self._named(path)} was taken back: git would obey it ({what})")
        asked = _stamps(self._watch.scan.asked)
        for path, stamp in asked.items():
            if self._asked.get(path) != stamp:
                row = row_of(path.relative_to(self._watch.workspace).parts)
                runs = row.runs if row is not None else "another program"
                said.append(f"{self._named(path)} was changed: what is in it is run by {runs}")
        self._asked = asked
        return said

    # --- looking ---

    def _look(self) -> dict[Path, Found]:
        found: dict[Path, Found] = {}
        git_dirs: set[Path] = set()
        files: list[Path] = []
        for root in self._roots:
            scan = self._watch.scan if root == self._watch.workspace else FolderScan(root)
            git_dirs.update(scan.git_dirs())
            files += scan.files
        for git_dir in git_dirs:
            found.update(self._in_git_dir(git_dir, git_dirs))
        for path in files:
            if is_protected("git-config"):
                found[path] = self._dot_git(path, git_dirs)
        return found

    def _in_git_dir(self, git_dir: Path, known: set[Path]) -> Iterator[tuple[Path, Found]]:
        if is_protected("git-config"):
            for name in ("config", "config.worktree"):
                path = git_dir / name
                if path.is_symlink():
                    yield path, Found(frozenset({f"a link to {path.readlink()}"}), None)
                elif path.exists():
                    text = read_small(path)
                    settings = dangerous_settings(text) if text is not None else [("?", "no text")]
                    dangers = frozenset(f"{name} = {value}" for name, value in settings)
                    yield path, Found(dangers, text, is_config=True)
            common = git_dir / "commondir"
            if common.is_symlink() or common.exists():
                text = read_small(common)
                own = git_dir.parent.name == "worktrees" and git_dir.parent.parent in known
                usual = own and (text or "").strip() == "../.."
                yield common, Found(frozenset() if usual else frozenset({f"{text!r}"}), text)
        if not is_protected("git-hooks"):
            return
        hooks = git_dir / "hooks"
        if hooks.is_symlink():
            yield hooks, Found(frozenset({f"a link to {hooks.readlink()}"}), None)
            return
        with contextlib.suppress(OSError), os.scandir(hooks) as entries:
            for entry in entries:
                if not entry.name.endswith((".sample", SET_ASIDE)):
                    text = read_small(Path(entry.path))
                    yield Path(entry.path), Found(frozenset({f"hook {text!r:.80}"}), text)

    def _dot_git(self, path: Path, known: set[Path]) -> Found:
        """A `.git` that is not a folder: fine when it names a git directory that is looked at
        too.
        """
        text = read_small(path)
        if text is None:
            return Found(frozenset({"a link"}), None)
        named = Path(text.removeprefix("gitdir:").strip())
        place = self._watch.on_host(named) if named.is_absolute() else path.parent / named
        with contextlib.suppress(OSError, RuntimeError):
            if place.resolve() in known:
                return Found(frozenset(), text)
        return Found(frozenset({text.strip()[:80]}), text)

    # --- taking back ---

    def _take_back(self, path: Path, found: Found, before: Found | None) -> None:
        with self._folder_of(path) as folder:
            if before is not None and before.text is not None:
                _write(path.name, before.text, folder)
                return
            os.rename(path.name, path.name + SET_ASIDE, src_dir_fd=folder, dst_dir_fd=folder)
            status = os.stat(path.name + SET_ASIDE, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                mode = stat.S_IMODE(status.st_mode) & 0o666
                aside = os.open(path.name + SET_ASIDE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    os.fchmod(aside, mode)
                finally:
                    os.close(aside)
            if found.is_config:
                _write(path.name, harmless_text(found.text or ""), folder)

    @contextlib.contextmanager
    def _folder_of(self, path: Path) -> Iterator[int]:
        """The folder of a path, walked from its root without following a link."""
        root = next(each for each in self._roots if path.is_relative_to(each))
        opened = [os.open(root, _FOLDER)]
        try:
            for part in path.relative_to(root).parts[:-1]:
                opened.append(os.open(part, _FOLDER, dir_fd=opened[-1]))
            yield opened[-1]
        finally:
            for each in opened:
                os.close(each)

    def _named(self, path: Path) -> str:
        root = self._watch.workspace
        return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _write(name: str, text: str, folder: int) -> None:
    """Put a file in the place of a name, owned as its folder is."""
    draft = f".{secrets.token_hex(8)}.draft"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o644, dir_fd=folder), "wb") as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))
        if os.geteuid() == 0:
            owner = os.fstat(folder)
            os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
    try:
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(draft, dir_fd=folder)
        raise


def _stamps(paths: list[Path]) -> dict[Path, tuple[int, int]]:
    """When the files among paths, or in folders among them, last changed, and their size."""
    found: dict[Path, tuple[int, int]] = {}
    for path in paths:
        inside = [path]
        if path.is_dir() and not path.is_symlink():
            inside = [Path(where, name) for where, _, names in os.walk(path) for name in names]
        for each in inside:
            with contextlib.suppress(OSError):
                status = each.lstat()
                found[each] = (status.st_mtime_ns, status.st_size)
    return found
