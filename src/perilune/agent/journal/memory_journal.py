"""A run's events in their order, and nothing written: for runs that nobody resumes.

Rollouts of training are such: one that was cut off is played again from its task, and its
sub-agents come by the hundred; a file with a flush and a thread for each would cost more than the
model does. `Journal` is the one that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from perilune.agent.endings import JournalFailed
from perilune.agent.journal.clock import ForwardClock, now
from perilune.events import Event, Record, valid_event


class MemoryJournal:
    """`open_journal=MemoryJournal` gives an agent runs that leave no record."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = now) -> None:
        self.folder = folder
        self.run = folder.name
        self._clock = ForwardClock(clock)
        self._staged: list[Record] = []
        self._failure: JournalFailed | None = None
        self._seq = 0

    def append(self, *events: Event, agent: str = "main") -> list[Record]:
        """Import events, after those staged, as one; `durable` waits for it.

        Returns the records of `events`. Raises `JournalFailed` when an earlier write failed.
        """
        records = [self._record(event, agent) for event in events]
        self.import_records([*self._staged, *records])
        self._staged.clear()
        return records

    def stage(self, event: Event, *, agent: str = "main") -> Record:
        """Give an event its place in the stream, and leave the writing to the next `append`."""
        record = self._record(event, agent)
        self._staged.append(record)
        return record

    def import_records(self, records: Sequence[Record]) -> None:
        """Forget them; whoever listens was told."""

    @property
    def has_staged(self) -> bool:
        return bool(self._staged)

    @property
    def failure(self) -> JournalFailed | None:
        """Why nothing can be written any more, if so."""
        return self._failure

    async def durable(self) -> None:
        """Return when all that was appended is as safe as it can be."""

    def heartbeat(self) -> None:
        """Say that this process still drives the run."""

    def now(self) -> float:
        """The time that a record would have now: never before that of an earlier one."""
        return self._clock()

    def release(self) -> None:
        """Let the run go."""
        self._staged.clear()

    def _record(self, event: Event, agent: str) -> Record:
        # What the living run knows is what a resumed one will read.
        event = valid_event(event)
        self._seq += 1
        return Record(event=event, run=self.run, seq=self._seq, time=self.now(), agent=agent)
