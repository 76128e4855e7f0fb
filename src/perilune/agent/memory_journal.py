"""A journal that writes nothing: for runs that nobody resumes, as rollouts of training are.

A rollout that was cut off is played again from its task, and its sub-agents come by the hundred; a
file with a flush and a thread for each would cost more than the model does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from perilune.agent.journal import Journal
from perilune.events import Record


class MemoryJournal(Journal):
    """`open_journal=MemoryJournal` gives an agent runs that leave no record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder.name
        self._clock = time.time
        self._staged = []
        self._last_write = None
        self._failure = None
        self._seq = 0

    def import_records(self, records: Sequence[Record]) -> None:
        """Forget them; whoever listens was told."""

    def heartbeat(self) -> None:
        pass

    def release(self) -> None:
        self._staged.clear()
