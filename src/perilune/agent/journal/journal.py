"""The journal: one append-only SQLite stream of typed, versioned events per run.

What is promised: after `durable` every appended event survives a power cut (WAL, synchronous=FULL);
events reach the disk in order, those of one `append` all or none; only the holder of the lease can
append; rows are never changed or removed; a damaged file still yields its readable beginning.
Tested by kill -9, truncation and a full disk.

Writing happens in a thread of its own, so a disk flush passes while the model thinks; the loop
waits for it only before a tool with side effects, before it asks a person, and at the end.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perilune.agent.endings import JournalFailed, LeaseLost, RunBusy
from perilune.agent.journal import lease
from perilune.agent.journal.clock import now
from perilune.agent.journal.memory_journal import MemoryJournal
from perilune.errors import AgentError
from perilune.events import VERSION, Record, decode_event, encode_event, event_type

FILE_NAME = "journal.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, agent TEXT NOT NULL, type TEXT NOT NULL,
    version INTEGER NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS lease (
    id INTEGER PRIMARY KEY CHECK (id = 1), token INTEGER NOT NULL, holder TEXT NOT NULL,
    heartbeat REAL NOT NULL
);
CREATE TRIGGER IF NOT EXISTS events_are_never_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_are_never_removed BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


class Journal(MemoryJournal):
    """The journal of one run, opened for writing by the one process that drives it."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = now) -> None:
        """Open or create `folder/journal.db` and take its lease.

        Raises `RunBusy` while another live process holds it, `JournalFailed` when the file cannot
        be opened or is damaged (see `repair`).
        """
        super().__init__(folder, clock=clock)
        self._last_write: Future[None] | None = None
        try:
            self._db = sqlite3.connect(
                folder / FILE_NAME, isolation_level=None, check_same_thread=False, timeout=10
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(f"BEGIN;{_SCHEMA}COMMIT;")  # one flush, not four
            self._token = self._take_lease()
            self._seq, last = self._db.execute(
                "SELECT coalesce(max(seq), 0), coalesce(max(time), 0) FROM events"
            ).fetchone()
            self._clock.saw(last)
        except sqlite3.Error as error:
            raise JournalFailed(f"cannot open {folder / FILE_NAME}: {error}") from error
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")

    def import_records(self, records: Sequence[Record]) -> None:
        """Write records as they are; their `seq` must go on where the journal ends."""
        if self._failure is not None:
            raise self._failure
        for record in records:
            self._clock.saw(record.time)
        rows = [_row(record) for record in records]
        self._last_write = self._writer.submit(self._write, rows)

    async def durable(self) -> None:
        """Return when all that was appended is on the disk.

        Raises `JournalFailed` when it could not be written (from there on, nothing is), `LeaseLost`
        when another process took the run over.
        """
        if self._last_write is not None:
            await asyncio.wrap_future(self._last_write)

    def heartbeat(self) -> None:
        """Say that this process still drives the run; every write says it too."""
        self._writer.submit(self._write, [])

    def release(self) -> None:
        """Write what is staged, give the lease back and close the file."""
        if self._staged and self._failure is None:
            self.append()
        self._writer.shutdown(wait=True)
        with suppress(sqlite3.Error):  # else the next process sees that this one is gone
            self._db.execute(
                "UPDATE lease SET holder = '', heartbeat = 0 WHERE token = ?", (self._token,)
            )
        self._db.close()

    def _take_lease(self) -> int:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            row = self._db.execute("SELECT token, holder, heartbeat FROM lease").fetchone()
            if row is not None and row[1] and lease.alive(row[1], row[2]):
                raise RunBusy(
                    f"run {self.run} is in use by process {lease.pid_of(row[1])}",
                    remedy="Wait for it, or end that process; then resume.",
                )
            token = 1 if row is None else int(row[0]) + 1
            self._db.execute(
                "INSERT OR REPLACE INTO lease VALUES (1, ?, ?, ?)",
                (token, lease.holder(), time.time()),
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            self._db.close()
            raise
        return token

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        """One transaction, in the writer's thread. The first failure is final: what comes after a
        hole must not be written."""
        if self._failure is not None:
            raise self._failure
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                lease_held = self._db.execute(
                    "UPDATE lease SET heartbeat = ? WHERE token = ?", (time.time(), self._token)
                )
                if lease_held.rowcount != 1:
                    raise LeaseLost(f"another process has taken over run {self.run}")
                self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except LeaseLost as error:
            self._failure = error
            raise
        except sqlite3.Error as error:
            self._failure = JournalFailed(
                f"cannot write the journal of run {self.run}: {error}",
                remedy=f"Make room on the disk of {self.folder}, then resume the run.",
            )
            raise self._failure from error


def _row(record: Record) -> tuple[Any, ...]:
    body = encode_event(record.event)
    checksum = _checksum(record.seq, record.time, record.agent, body)
    kind = event_type(record.event)
    return record.seq, record.time, record.agent, kind, VERSION, body, checksum


def _checksum(seq: int, when: float, agent: str, body: bytes) -> int:
    """CRC-32 of what a record is made of; SQLite checks its pages' structure, not their content."""
    return zlib.crc32(body, zlib.crc32(f"{seq} {when!r} {agent}".encode()))


# --- reading ---------------------------------------------------------------------------------

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


@dataclass(slots=True)
class History:
    """What a journal holds. `damage` says what could not be read, and is empty when all could."""

    records: list[Record] = field(default_factory=list)
    damage: str = ""


def read_journal(folder: Path, *, after: int = 0) -> History:
    """The records with `seq` > `after`, as far as the file can be read without a gap.

    Needs no lease, and works beside a running writer. A damaged file raises nothing: what can be
    read is returned, and `damage` says where it ends. Raises `AgentError` when there is no journal,
    or the file cannot be opened at all.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise AgentError(f"there is no journal in {folder}")
    history = _read(path, after, salvage=False)
    if history.damage and not history.records:
        history = _read(path, after, salvage=True)
    return history


def _read(path: Path, after: int, *, salvage: bool) -> History:
    history = History()
    try:
        with closing(_open_to_read(path, salvage=salvage)) as db:
            rows = db.execute(
                "SELECT seq, time, agent, body, checksum FROM events WHERE seq > ? ORDER BY seq",
                (after,),
            )
            for expected, (seq, when, agent, body, checksum) in enumerate(rows, after + 1):
                if seq != expected:
                    history.damage = f"event {expected} is missing"
                    break
                if _checksum(seq, when, agent, body) != checksum:
                    history.damage = f"event {expected} is not what was written"
                    break
                record = Record(
                    event=decode_event(body),
                    run=path.parent.name,
                    seq=seq,
                    time=float(when),
                    agent=str(agent),
                )
                history.records.append(record)
    except (sqlite3.Error, ValueError, TypeError) as error:  # a bad column can be of any type
        if isinstance(error, sqlite3.Error) and not _is_damage(error):
            raise AgentError(f"cannot read {path}: {error}") from error
        history.damage = f"nothing can be read after event {after + len(history.records)}: {error}"
    if salvage and not history.damage:
        history.damage = f"the file was cut off after event {after + len(history.records)}"
    return history


def repair(folder: Path) -> History:
    """Put the readable beginning of a damaged journal into a fresh file; the old one is kept aside.

    Returns what was read. Does nothing to a journal that is whole. Raises `RunBusy` while a live
    process writes it.
    """
    history = read_journal(folder)
    if not history.damage:
        return history
    _refuse_if_driven(folder)
    stamp = time.time_ns()
    fresh, aside = folder / f"repaired-{stamp}", folder / f"damaged-{stamp}"
    fresh.mkdir()
    aside.mkdir()
    journal = Journal(fresh)
    journal.import_records(history.records)
    journal.release()
    if journal.failure is not None:
        raise journal.failure
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        if (folder / name).exists():
            (folder / name).rename(aside / name)
    (fresh / FILE_NAME).rename(folder / FILE_NAME)
    fresh.rmdir()
    return history


def _open_to_read(path: Path, *, salvage: bool = False) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=10)
    if salvage:
        # Only so does SQLite look into a file that is shorter than its header says (btree.c).
        db.execute("PRAGMA writable_schema=ON")
    try:
        db.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        db.close()
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN:
            raise
        # A folder that cannot be written (an archive): nobody else writes there either.
        db = sqlite3.connect(f"{uri}?immutable=1", uri=True)
    return db


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE or "no such table" in str(error)


def _refuse_if_driven(folder: Path) -> None:
    try:
        with closing(_open_to_read(folder / FILE_NAME)) as db:
            row = db.execute("SELECT holder, heartbeat FROM lease").fetchone()
    except sqlite3.Error:
        return
    if row is not None and row[0] and lease.alive(*row):
        raise RunBusy(f"run {folder.name} is in use by process {lease.pid_of(row[0])}")
