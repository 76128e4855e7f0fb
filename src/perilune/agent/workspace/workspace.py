"""The workspace as file tools see it: no path leads out of it, whatever links lie on the way.

A path is walked part by part from the workspace's own descriptor (`openat` with `O_NOFOLLOW`);
symbolic links are read and walked by us, and one that leads out is refused. So nothing that runs at
the same time can swap a folder for a link between a check and a use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from perilune.errors import ToolError
from perilune.sandbox.bubblewrap import INSIDE
from perilune.sandbox.protected import TABLE, asked_about, row_of, rule_of
from perilune.text_file import TextFile, decode

_MOST_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# Machine-made folders that searches leave out unless they are named.
SKIPPED = frozenset(
    {".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__", ".tox"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}
)


class FolderError(ToolError):
    """A folder stands where a file was to be read."""

    code = "is_folder"


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file of the workspace, by its relative path."""

    path: str
    size: int
    modified: float


class Workspace:
    """A folder that tools read and write by relative path, or by `/workspace/...`, as shells do."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def relative(self, path: str) -> str:
        """The path below the root, lexically clean, "." for the root itself.

        Raises `ToolError` for what lies outside.
        """
        if "\0" in path:
            raise ToolError("a path cannot hold a zero byte")
        parts: list[str] = []
        for part in self._parts(path):
            if part == "..":
                if not parts:
                    raise _outside(path)
                parts.pop()
            else:
                parts.append(part)
        return "/".join(parts) or "."

    def read_bytes(self, path: str, *, most: int) -> bytes:
        """A file's bytes. Raises `ToolError`: absent, no regular file, outside, over `most`."""
        with self._open(path) as file:
            size = os.fstat(file).st_size
            if size > most:
                raise ToolError(f"{path} has {size} bytes; at most {most} can be read at once")
            data = bytearray()
            while chunk := os.read(file, 1 << 20):
                data += chunk
                if len(data) > most:
                    raise ToolError(f"{path} has more than {most} bytes")
            return bytes(data)

    def read_text(self, path: str, *, most: int = 16 << 20) -> str:
        """A file's text, without a mark. Raises `ToolError` for a binary file too."""
        return self.read_text_file(path, most=most).text

    def read_text_file(self, path: str, *, most: int = 16 << 20) -> TextFile:
        """A file's text with its encoding, mark and line ends. Raises `ToolError`."""
        return decode(self.read_bytes(path, most=most), path)

    def write_bytes(self, path: str, data: bytes) -> str:
        """Write a file in one atomic step, making its folders; gives its relative path.

        An existing file keeps its mode; as root, what is new belongs to the folder's owner, so that
        sandboxed commands can change it too.
        """
        with self._parent(path, make=True) as (folder, name):
            try:
                _replace(name, folder, data, _file_mode(name, folder, path))
            except OSError as error:
                raise _readable(error, path) from None
        return self.relative(path)

    def exists(self, path: str) -> bool:
        """Whether there is something at a path."""
        try:
            with self._parent(path) as (folder, name):
                os.stat(name or ".", dir_fd=folder, follow_symlinks=False)
        except (ToolError, OSError):
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file; it is not an error when there is none."""
        with (
            contextlib.suppress(FileNotFoundError),
            self._parent(path, removing=True) as (folder, name),
        ):
            os.unlink(name, dir_fd=folder)

    def listing(self, path: str) -> list[str]:
        """Names in a folder, sorted, folders with a slash."""
        with self.open_folder(path) as folder, os.scandir(folder) as entries:
            return sorted(
                entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                for entry in entries
            )

    def files(self, path: str = ".", *, skip: frozenset[str] = SKIPPED) -> Iterator[Found]:
        """All regular files below a path, in order of their names; links are not followed."""
        base = self.relative(path)
        try:
            single = self._stat_file(path, base)
        except ToolError:
            single = None
        if single is not None:
            yield single
            return
        prefix = "" if base == "." else f"{base}/"
        with self.open_folder(path) as top:
            for where, folders, names, folder in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                folders[:] = sorted(name for name in folders if name not in skip)
                inner = where.removeprefix(".").lstrip("/")
                for name in sorted(names):
                    with contextlib.suppress(OSError):
                        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            full = prefix + (f"{inner}/{name}" if inner else name)
                            yield Found(full, status.st_size, status.st_mtime)

    @contextlib.contextmanager
    def open_folder(self, path: str) -> Iterator[int]:
        """A descriptor of a folder."""
        with self._parent(path) as (folder, name):
            try:
                opened = os.open(name or ".", _FOLDER, dir_fd=folder)
            except OSError as error:
                raise _readable(error, path) from None
            try:
                yield opened
            finally:
                os.close(opened)

    # --- walking ---

    def _parts(self, path: str) -> list[str]:
        """Parts of a path below the root; absolute ones must begin with it."""
        pure = PurePosixPath(path)
        if pure.is_absolute():
            for root in (INSIDE, str(self.root)):
                if pure.is_relative_to(root):
                    return list(pure.relative_to(root).parts)
            raise _outside(path)
        return [part for part in pure.parts if part != "."]

    @contextlib.contextmanager
    def _parent(
        self, path: str, *, make: bool = False, removing: bool = False
    ) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that holds a path, and the last name in it ("": the root).

        The name itself is not a link: links are resolved, the last one too.
        """
        if "\0" in path:
            raise ToolError("a path cannot hold a zero byte")
        names: list[str] = []  # of the folders that were entered
        pending = self._parts(path)[::-1]
        try:
            folders = [os.open(self.root, _FOLDER)]
        except OSError as error:
            raise _readable(error, "the workspace") from None
        links = 0
        try:
            while pending:
                part = pending.pop()
                if part == "..":
                    if len(folders) == 1:
                        raise _outside(path)
                    os.close(folders.pop())
                    names.pop()
                    continue
                target = _link_target(part, folders[-1])
                if target is not None:
                    links += 1
                    if links > _MOST_LINKS:
                        raise ToolError(f"{path}: too many symbolic links")
                    pending += self._link_parts(path, target, folders)[::-1]
                    del names[len(folders) - 1 :]
                    continue
                if not pending:
                    if make or removing:
                        self._may_write(path, [*names, part], folders)
                    yield folders[-1], part
                    return
                folders.append(_enter(part, folders[-1], path, make=make))
                names.append(part)
                if make and _identity(folders[-1]) == _own_interpreter():
                    raise ToolError(f"{path} belongs to the interpreter that runs the agent")
            yield folders[-1], ""
        finally:
            for folder in folders:
                os.close(folder)

    def _link_parts(self, path: str, target: str, folders: list[int]) -> list[str]:
        """The parts of a link's target; an absolute one starts again at the root."""
        if not target.startswith("/"):
            return [part for part in PurePosixPath(target).parts if part != "."]
        try:
            parts = self._parts(target)
        except ToolError:
            raise _outside(path) from None
        while len(folders) > 1:
            os.close(folders.pop())
        return parts

    def _may_write(self, path: str, names: list[str], folders: list[int]) -> None:
        """Raises `ToolError` for what git or another program of the user's would obey.

        `names` lead there, without links; `folders` are open, the last is the one that holds it.
        """
        row = row_of(names)
        if row is None and _is_of_git(names, folders):
            row = next(each for each in TABLE if each.name == "git-config")
        if row is None or rule_of(row) == "free":
            return
        if rule_of(row) == "read-only":
            raise ToolError(
                f"{path} is read-only: what is written there is run by {row.runs}",
                remedy="Say what you would change, and leave it to the person.",
            )
        if asked_about(self.relative(path)) is None:  # then nobody was asked about it
            raise ToolError(
                f"{path} leads to {'/'.join(names)} by a link",
                remedy="Write to that path itself.",
            )

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[int]:
        """A regular file for reading; a pipe or a device is refused, for it could block."""
        with self._parent(path) as (folder, name):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                file = os.open(name or ".", flags, dir_fd=folder)
            except OSError as error:
                raise _readable(error, path) from None
            try:
                mode = os.fstat(file).st_mode
                if stat.S_ISDIR(mode):
                    raise FolderError(f"{path} is a folder")
                if not stat.S_ISREG(mode):
                    raise ToolError(f"{path} is not a regular file")
                yield file
            finally:
                os.close(file)

    def _stat_file(self, path: str, relative: str) -> Found:
        with self._open(path) as file:
            status = os.fstat(file)
            return Found(relative, status.st_size, status.st_mtime)


def _is_of_git(names: list[str], folders: list[int]) -> bool:
    """Whether a file would be one that git obeys in a folder that it takes for a git directory."""
    name = names[-1].casefold()
    if name in ("config", "config.worktree", "commondir", "head"):
        folder = folders[-1]
    elif len(names) > 1 and names[-2].casefold() == "hooks" and len(folders) > 1:
        folder = folders[-2]
    else:
        return False
    there = {each.casefold() for each in os.listdir(folder)}  # noqa: PTH208
    return len(there & {"head", "objects", "refs", "commondir"}) >= 2


@cache
def _own_interpreter() -> tuple[int, int]:
    """The folder of our own virtual environment; what is written there would run as us."""
    status = Path(sys.prefix).stat()
    return status.st_dev, status.st_ino


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _link_target(name: str, folder: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def _enter(name: str, folder: int, path: str, *, make: bool) -> int:
    """Open a folder below another, made when it is missing and wanted."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise ToolError(f"there is no {path}") from None
    except OSError as error:
        raise _readable(error, path) from None
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
        opened = os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        raise _readable(error, path) from None
    _give_to_owner(opened, folder)
    return opened


def _replace(name: str, folder: int, data: bytes, mode: int) -> None:
    """Put a file of these bytes in the place of `name`.

    It is written without a name, where the file system can do that: a process that is killed
    meanwhile leaves no draft behind.
    """
    draft = f".{secrets.token_hex(8)}.draft"
    nameless = _nameless(folder)
    try:
        with os.fdopen(_draft(draft, folder) if nameless is None else nameless, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            _give_to_owner(stream.fileno(), folder)
            if nameless is not None:
                os.link(f"/proc/self/fd/{nameless}", draft, dst_dir_fd=folder)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def _nameless(folder: int) -> int | None:
    """A new file without a name, to be linked through /proc; None where there is no such thing."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return None
    with contextlib.suppress(OSError):
        return os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder)
    return None


def _draft(name: str, folder: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=folder)


def _give_to_owner(descriptor: int, folder: int) -> None:
    """As root, hand a new file to the owner of its folder."""
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _file_mode(name: str, folder: int, path: str) -> int:
    """The mode of the file that is there, or that of a new one."""
    try:
        mode = os.stat(name or ".", dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0o644
    if not stat.S_ISREG(mode):
        raise ToolError(f"{path} is not a regular file")
    return stat.S_IMODE(mode)


def _outside(path: str) -> ToolError:
    return ToolError(f"{path} leads out of the workspace", remedy="Use a path relative to it.")


def _readable(error: OSError, path: str) -> ToolError:
    if error.errno == errno.ENOENT:
        return ToolError(f"there is no {path}")
    if error.errno == errno.ENOTDIR:
        return ToolError(f"a part of {path} is not a folder")
    return ToolError(f"{path}: {error.strerror}")
