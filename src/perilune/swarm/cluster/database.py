"""What the machines of a cluster share besides DBOS's own tables, in the schema `perilune`.

Every write of a sub-agent names the token of its lease. Whoever takes an assignment over raises the
token, so a worker that was only thought dead can write nothing more; and the first outcome of an
assignment is the only one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from perilune.errors import AgentError, UsageError
from perilune.events import Record, decode_event

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS perilune;
CREATE TABLE IF NOT EXISTS perilune.events (
    key text, seq bigint, time double precision, agent text, body bytea, PRIMARY KEY (key, seq)
);
CREATE TABLE IF NOT EXISTS perilune.leases (key text PRIMARY KEY, token bigint NOT NULL);
CREATE TABLE IF NOT EXISTS perilune.outcomes (workflow text PRIMARY KEY, body text NOT NULL);
CREATE TABLE IF NOT EXISTS perilune.files (
    key text, path text, data bytea NOT NULL, PRIMARY KEY (key, path)
);
CREATE TABLE IF NOT EXISTS perilune.calls (run text PRIMARY KEY, used bigint NOT NULL);
CREATE TABLE IF NOT EXISTS perilune.controls (
    id bigserial PRIMARY KEY, workflow text NOT NULL, verb text NOT NULL, words text NOT NULL
);
CREATE TABLE IF NOT EXISTS perilune.workers (id text PRIMARY KEY, seen timestamptz NOT NULL);
"""
SETUP_LOCK, RESCUE_LOCK = 7_301_001, 7_301_002
"""Keys of advisory locks: one process at a time makes the tables, or looks for dead workers."""


class LeaseTaken(AgentError):
    """Another worker has taken the assignment over."""

    code = "lease_taken"


class Database:
    """One connection, shared by the threads of a process; opened again when it was lost."""

    def __init__(self, url: str) -> None:
        """Raises `UsageError` when the extra is not installed or the database cannot be reached."""
        try:
            import psycopg
        except ImportError:
            raise UsageError(
                "a cluster needs DBOS and psycopg",
                remedy="Install them: pip install 'perilune[cluster]'.",
            ) from None
        self._errors = psycopg.Error
        self._url = url
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        try:
            self._in_transaction(self._make_tables)
        except psycopg.Error as error:
            # The message of psycopg names host and user, never the password.
            raise UsageError(
                f"the cluster's database cannot be used: {error}".strip(),
                remedy="Give a PostgreSQL 14 or later: postgresql://USER@HOST/DATABASE.",
            ) from None

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # --- journals ---

    def take_lease(self, key: str) -> int:
        """Become the one who works on `key`; the token that every write must name."""
        rows = self._query(
            "INSERT INTO perilune.leases VALUES (%s, 1) ON CONFLICT (key) "
            "DO UPDATE SET token = perilune.leases.token + 1 RETURNING token",
            (key,),
        )
        return int(rows[0][0])

    def append(self, key: str, token: int, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add `(seq, time, agent, body)` rows, all or none. Raises `LeaseTaken`."""

        def write(cursor: psycopg.Cursor[Any]) -> None:
            self._check(cursor, key, token)
            cursor.executemany(
                "INSERT INTO perilune.events VALUES (%s, %s, %s, %s, %s)",
                [(key, *row) for row in rows],
            )

        self._in_transaction(write)

    def records(self, key: str, run: str, after: int = 0) -> list[Record]:
        """The records of a journal with `seq` > `after`."""
        rows = self._query(
            "SELECT seq, time, agent, body FROM perilune.events WHERE key = %s AND seq > %s "
            "ORDER BY seq",
            (key, after),
        )
        return [
            Record(event=decode_event(bytes(body)), run=run, seq=seq, time=when, agent=agent)
            for seq, when, agent, body in rows
        ]

    # --- outcomes and files ---

    def save_outcome(
        self, workflow: str, key: str, token: int, body: str, files: dict[str, bytes]
    ) -> str:
        """Keep the outcome with its files; returns the kept one, which may be an earlier one.

        Raises `LeaseTaken`.
        """

        def write(cursor: psycopg.Cursor[Any]) -> str:
            self._check(cursor, key, token)
            cursor.executemany(
                "INSERT INTO perilune.files VALUES (%s, %s, %s) ON CONFLICT (key, path) "
                "DO UPDATE SET data = excluded.data",
                [(key, path, data) for path, data in files.items()],
            )
            cursor.execute(
                "INSERT INTO perilune.outcomes VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (workflow, body),
            )
            cursor.execute("SELECT body FROM perilune.outcomes WHERE workflow = %s", (workflow,))
            row = cursor.fetchone()
            assert row is not None
            return str(row[0])

        return self._in_transaction(write)

    def outcome(self, workflow: str) -> str | None:
        rows = self._query("SELECT body FROM perilune.outcomes WHERE workflow = %s", (workflow,))
        return str(rows[0][0]) if rows else None

    def files(self, key: str) -> dict[str, bytes]:
        rows = self._query("SELECT path, data FROM perilune.files WHERE key = %s", (key,))
        return {str(path): bytes(data) for path, data in rows}

    # --- limits, words, workers ---

    def take_call(self, run: str, limit: int | None) -> bool:
        """Count one tool call of a run; False when `limit` are spent."""
        self._query("INSERT INTO perilune.calls VALUES (%s, 0) ON CONFLICT DO NOTHING", (run,))
        rows = self._query(
            "UPDATE perilune.calls SET used = used + 1 "
            "WHERE run = %s AND (%s::bigint IS NULL OR used < %s) RETURNING used",
            (run, limit, limit),
        )
        return bool(rows)

    def say(self, workflow: str, verb: str, words: str) -> None:
        """Leave a word (`steer` or `stop`) for whoever works on an assignment."""
        self._query(
            "INSERT INTO perilune.controls (workflow, verb, words) VALUES (%s, %s, %s)",
            (workflow, verb, words),
        )

    def heard(self, workflows: Sequence[str]) -> list[tuple[int, str, str, str]]:
        """`(id, workflow, verb, words)` left for these assignments, in order."""
        rows = self._query(
            "SELECT id, workflow, verb, words FROM perilune.controls "
            "WHERE workflow = ANY(%s) ORDER BY id",
            (list(workflows),),
        )
        return [(int(i), str(w), str(v), str(t)) for i, w, v, t in rows]

    def beat(self, worker: str) -> None:
        """Say that a worker lives."""
        self._query(
            "INSERT INTO perilune.workers VALUES (%s, now()) ON CONFLICT (id) "
            "DO UPDATE SET seen = now()",
            (worker,),
        )

    def rescue(self, silent_seconds: float, rescue: Callable[[str], None]) -> list[str]:
        """Call `rescue` for each worker that was silent for so long, and forget it.

        One process at a time does so; returns whom it found.
        """

        def find(cursor: psycopg.Cursor[Any]) -> list[str]:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (RESCUE_LOCK,))
            row = cursor.fetchone()
            if row is None or not row[0]:
                return []
            cursor.execute(
                "SELECT id FROM perilune.workers WHERE seen < now() - make_interval(secs => %s)",
                (silent_seconds,),
            )
            lost = [str(each[0]) for each in cursor.fetchall()]
            for worker in lost:
                rescue(worker)
                cursor.execute("DELETE FROM perilune.workers WHERE id = %s", (worker,))
            return lost

        return self._in_transaction(find)

    def leave(self, worker: str) -> None:
        """A worker ends in order."""
        self._query("DELETE FROM perilune.workers WHERE id = %s", (worker,))

    # --- within ---

    def _make_tables(self, cursor: psycopg.Cursor[Any]) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (SETUP_LOCK,))
        cursor.execute(_SCHEMA)

    def _check(self, cursor: psycopg.Cursor[Any], key: str, token: int) -> None:
        cursor.execute("SELECT token FROM perilune.leases WHERE key = %s FOR UPDATE", (key,))
        row = cursor.fetchone()
        if row is None or int(row[0]) != token:
            raise LeaseTaken(f"another worker has taken over {key}")

    def _query(self, text: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        def run(cursor: psycopg.Cursor[Any]) -> list[tuple[Any, ...]]:
            cursor.execute(text, values)
            return cursor.fetchall() if cursor.description else []

        return self._in_transaction(run)

    def _in_transaction(self, work: Callable[[psycopg.Cursor[Any]], T]) -> T:
        import psycopg

        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._url, connect_timeout=10)
            with self._connection.transaction(), self._connection.cursor() as cursor:
                return work(cursor)
