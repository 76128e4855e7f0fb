"""A journal on this machine's disk and in the cluster's database: durable means in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perilune.agent.endings import JournalFailed, LeaseLost
from perilune.agent.journal.journal import Journal
from perilune.swarm.cluster.database import Database, LeaseTaken


class SharedJournal(Journal):
    """Writes each batch to the file, then to the database, under the lease's token."""

    def __init__(self, folder: Path, *, database: Database, key: str, token: int) -> None:
        super().__init__(folder)
        self._database = database
        self._key = key
        self._lease_token = token

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        super()._write(rows)
        shared = [(seq, when, agent, body) for seq, when, agent, _, _, body, _ in rows]
        try:
            self._database.append(self._key, self._lease_token, shared)
        except LeaseTaken as error:
            self._failure = LeaseLost(error.message)
            raise self._failure from error
        except Exception as error:  # the database is gone, or full
            self._failure = JournalFailed(
                f"cannot write the journal of {self._key} to the cluster's database: {error}",
                remedy="Bring the database back; the sub-agent then goes on by itself.",
            )
            raise self._failure from error
