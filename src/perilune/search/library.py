"""The user's corpora: folders that were indexed under a name, one file each in the data home."""

from __future__ import annotations

import contextlib
import fcntl
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perilune.errors import AgentError, ToolError, UsageError
from perilune.home import data_home
from perilune.search.corpus import SCHEME, Corpus, Document, Hit
from perilune.search.files import FileReader, FileText, Found, find_files
from perilune.search.pdf import Unreadable

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = frozenset({"almanac"})
MOST_REASONS = 50
MOST_NAMED = 20
_BATCH_FILES = 64
_BATCH_CHARACTERS = 8 << 20

_FILES = """
create table if not exists files (
  path text primary key, size integer not null, modified_ns integer not null, sha256 text not null,
  problem text not null
);
create table if not exists about (name text primary key, value text not null);
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not in the index, and why."""

    path: str
    problem: str


@dataclass(slots=True)
class Report:
    """What `Library.add` did, in files."""

    name: str
    folder: str
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    problems: list[Problem] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    """Files and folders that are not meant to be read, counted by reason; at most MOST_REASONS."""
    skipped_files: list[Problem] = field(default_factory=list)
    """The first of each reason by name, at most MOST_NAMED of a reason."""

    def skip(self, path: str, why: str) -> None:
        if why not in self.skipped and len(self.skipped) >= MOST_REASONS:
            why = "of other kinds"
        count = self.skipped[why] = self.skipped.get(why, 0) + 1
        if count <= MOST_NAMED:
            self.skipped_files.append(Problem(path, why))


@dataclass(frozen=True, slots=True)
class Summary:
    """A corpus as `perilune corpus ls` shows it. `problem` is not empty when it cannot be read."""

    name: str
    folder: str
    documents: int
    bytes: int
    problem: str = ""


Progress = Callable[[int, int], None]
"""Hears of the files done and the files in all."""


class Library:
    """The corpora of a data home (default: `$PERILUNE_HOME` and so on)."""

    def __init__(self, home: Path | None = None) -> None:
        self._folder = (home or data_home()) / "corpora"

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.sqlite"))

    def add(
        self, folder: Path, name: str | None = None, progress: Progress | None = None
    ) -> Report:
        """Index a folder, or bring its index up to date: what has not changed is not read again.

        A file that cannot be read is a problem in the report; the rest is indexed. Raises
        `UsageError` for no folder, a bad name, or a name that another folder has; `AgentError`
        when the index cannot be written.
        """
        try:
            folder = folder.expanduser().resolve(strict=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be indexed: {error.strerror}") from None
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder", remedy="Put the file into a folder.")
        name = _checked(name if name is not None else _name_of(folder))
        with self._writing(name) as index:
            known = index.folder()
            if known not in ("", str(folder)):
                raise UsageError(
                    f"the corpus {name!r} is an index of {known}",
                    remedy="Give this folder another name with --name, or remove that corpus.",
                )
            index.set_folder(folder)
            report = Report(name, str(folder))
            index.update(folder, report, progress)
        return report

    def remove(self, name: str) -> None:
        """Delete an index; the folder stays as it is. Raises `UsageError` for an unknown name."""
        path = self._path(name)
        with self._lock(name):
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)

    def summaries(self) -> list[Summary]:
        found = []
        for name in self.names():
            path = self._folder / f"{name}.sqlite"
            try:
                with contextlib.closing(_Index(path, name)) as index:
                    found.append(Summary(name, index.folder(), len(index), path.stat().st_size))
            except (UsageError, sqlite3.Error, OSError) as error:
                problem = error.message if isinstance(error, UsageError) else str(error)
                found.append(Summary(name, "", 0, 0, problem))
        return found

    def search(
        self, query: str, count: int, names: Sequence[str] | None = None, *, any_word: bool = True
    ) -> list[list[Hit]]:
        """The hits of each corpus (default: all that can be read). Raises `UsageError` for an
        unknown name."""
        lists = []
        for name in self.names() if names is None else names:
            path = self._path(name)
            try:
                with contextlib.closing(_Index(path, name)) as index:
                    lists.append(index.search(query, count, any_word=any_word))
            except (UsageError, sqlite3.Error):
                if names is not None:
                    raise UsageError(
                        f"the corpus {name!r} cannot be read",
                        remedy=f"Make it again: perilune corpus rm {name}, then add.",
                    ) from None
        return lists

    def document(self, address: str) -> Document:
        """A document by `corpus:NAME/PATH`. Raises `ToolError` when there is none."""
        name, _, _ = address.removeprefix(SCHEME).partition("/")
        if name not in self.names():
            raise ToolError(f"there is no corpus {name!r}", remedy="Take an address of `search`.")
        try:
            with contextlib.closing(_Index(self._path(name), name)) as index:
                return index.document(address)
        except (UsageError, sqlite3.Error) as error:
            raise ToolError(f"the corpus {name!r} cannot be read: {error}") from None

    def _path(self, name: str) -> Path:
        if name not in self.names():
            raise UsageError(
                f"there is no corpus {name!r}", remedy="`perilune corpus ls` lists them."
            )
        return self._folder / f"{name}.sqlite"

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[_Index]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (
                self._lock(name),
                contextlib.closing(_Index(self._folder / f"{name}.sqlite", name)) as index,
            ):
                yield index
        except (OSError, sqlite3.OperationalError) as error:
            raise AgentError(
                f"the corpus {name!r} cannot be written: {error}",
                remedy="Make room, or set PERILUNE_HOME to a folder that can be written.",
            ) from None

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One writer at a time; readers need no lock."""
        with (self._folder / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    f"another process is writing the corpus {name!r}",
                    remedy="Wait until it is done; what it has written so far can be searched.",
                ) from None
            yield


class _Index(Corpus):
    """A corpus with the state of the files that it was made of."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self._name = name
        try:
            self._connection.executescript(_FILES)
        except sqlite3.Error as error:
            self.close()
            raise UsageError(f"{path} cannot be used as a corpus: {error}") from None

    def folder(self) -> str:
        row = self._connection.execute("select value from about where name = 'folder'").fetchone()
        return str(row[0]) if row else ""

    def set_folder(self, folder: Path) -> None:
        with self._connection:
            self._connection.execute(
                "insert or replace into about values ('folder', ?)", (str(folder),)
            )

    def update(self, folder: Path, report: Report, progress: Progress | None) -> None:
        """Read what is new or changed, drop what is gone."""

        def problem(path: str, why: str) -> None:
            report.problems.append(Problem(path, why))

        known = {row[0]: row[1:] for row in self._connection.execute("select * from files")}
        files = list(find_files(folder, problem, report.skip))
        unseen_below = [each.path for each in report.problems]
        with contextlib.closing(FileReader()) as reader:
            batch: list[tuple[Found, FileText]] = []
            for number, found in enumerate(files):
                if progress is not None:
                    progress(number, len(files))
                size, modified, digest, why = known.get(found.path, (-1, -1, "", ""))
                if (size, modified) == (found.size, found.modified_ns) and not why:
                    report.unchanged += 1
                    continue
                try:
                    file = reader.read(folder, found)
                except Unreadable as error:
                    problem(found.path, str(error))
                    self._drop(found.path)
                    self._remember([(found, "", str(error))])
                    continue
                if file.sha256 == digest:
                    report.unchanged += 1
                    self._remember([(found, digest, "")])
                    continue
                report.changed += bool(digest)
                report.added += not digest
                batch.append((found, file))
                if len(batch) == _BATCH_FILES or _characters(batch) > _BATCH_CHARACTERS:
                    self._store(batch)
                    batch = []
            self._store(batch)
        for path in known.keys() - {found.path for found in files}:
            if not any(_is_below(path, place) for place in unseen_below):
                report.removed += not known[path][3]
                self._drop(path)
                with self._connection:
                    self._connection.execute("delete from files where path = ?", (path,))
        if progress is not None:
            progress(len(files), len(files))

    def _store(self, batch: list[tuple[Found, FileText]]) -> None:
        self.add(
            Document(f"{SCHEME}{self._name}/{found.path}", file.title, file.text)
            for found, file in batch
        )
        self._remember([(found, file.sha256, "") for found, file in batch])

    def _remember(self, files: Sequence[tuple[Found, str, str]]) -> None:
        with self._connection:
            self._connection.executemany(
                "insert or replace into files values (?, ?, ?, ?, ?)",
                [(f.path, f.size, f.modified_ns, digest, why) for f, digest, why in files],
            )

    def _drop(self, path: str) -> None:
        with self._connection:
            self._connection.execute(
                "delete from documents where address = ?", (f"{SCHEME}{self._name}/{path}",)
            )


def _characters(batch: list[tuple[Found, FileText]]) -> int:
    return sum(len(file.text) for _, file in batch)


def _is_below(path: str, place: str) -> bool:
    return place in ("", ".") or path == place or path.startswith(place + "/")


def _name_of(folder: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).strip("-._")[:64]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise UsageError(
            f"{name!r} cannot be the name of a corpus",
            remedy="Give one with --name: lower-case letters, digits, hyphens; not 'almanac'.",
        )
    return name
