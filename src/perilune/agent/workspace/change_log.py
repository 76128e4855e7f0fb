"""Who changed which path of a workspace, the run or someone else, and to what.

Before and after every call with side effects the workspace is compared with what was known of it:
what changed between two calls is someone else's, what changed during one counts as the run's. Each
change is a line of a file, its content is in the snapshots' content store; undo reads both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from perilune.agent.workspace.manifest import Entry, Manifest, same_entry
from perilune.agent.workspace.snapshot import SnapshotStore

RUN, OTHERS, UNDO = "run", "others", "undo"
UNKNOWN = "unknown"
"""Either's: it changed while or after a call was cut off, e.g. by kill -9."""


@dataclass(slots=True)
class Ledger:
    """What a change log says. `changes` of each path in order: (who, what it became)."""

    changes: dict[str, list[tuple[str, Entry | None]]] = field(default_factory=dict)
    cut_off: bool = False  # the last call's end is not in it

    def left(self, path: str) -> tuple[Entry | None] | None:
        """What the run's last write left there, None being absent; None when it wrote nothing."""
        for who, entry in reversed(self.changes.get(path, ())):
            if who == RUN:
                return (entry,)
        return None

    def wanted(self, path: str, before: Entry | None) -> Entry | None:
        """What stood there when the run first wrote: maybe someone else's change since it began."""
        for who, entry in self.changes.get(path, ()):
            if who == RUN:
                break
            if who == OTHERS:
                before = entry
        return before

    def is_unknown(self, path: str) -> bool:
        """Whether a change may be the run's, or not, and nothing was known to be the run's."""
        return any(who == UNKNOWN for who, _ in self.changes.get(path, ()))

    def overwritten(self, path: str) -> list[Entry]:
        """Versions of someone else's, made after the run's first write, that it wrote over."""
        found: list[Entry] = []
        changes = self.changes.get(path, [])
        writes = [n for n, (who, _) in enumerate(changes) if who == RUN]
        for n, (who, entry) in enumerate(changes):
            first = 0 if who == UNKNOWN else writes[0] if writes else 0
            between = writes and first <= n < writes[-1] and changes[n + 1][0] == RUN
            if who in (OTHERS, UNKNOWN) and between and entry is not None and entry.kind == "file":
                found.append(entry)
        return found

    def known(self, before: Mapping[str, Entry]) -> dict[str, Entry]:
        """The workspace as it was when the log was last written."""
        entries = dict(before)
        for path, changes in self.changes.items():
            entry = changes[-1][1]
            if entry is None:
                entries.pop(path, None)
            else:
                entries[path] = entry
        return entries


class ChangeLog:
    """The log of one run, below the snapshots' folder. `root` is what it is about."""

    def __init__(self, store: SnapshotStore, run: str, root: Path, before: str) -> None:
        self._store = store
        self._root = root.resolve()
        self._path = store.changes_path(run)
        self._before = before
        self._known: dict[str, Entry] | None = None

    def begin(self) -> None:
        """Before a call: what changed since the last one is someone else's. After a call whose end
        is missing, nobody can tell."""
        ledger = read_ledger(self._store, self._path)
        cut_off = ledger is not None and ledger.cut_off
        self._note(UNKNOWN if cut_off else OTHERS)
        self._write({"began": os.getpid()})

    def end(self) -> None:
        """After a call: what changed during it is the run's."""
        self._note(RUN)
        self._write({"ended": os.getpid()})

    def undone(self, paths: Collection[str]) -> None:
        """After an undo, which made these paths what they are: that is nobody's change."""
        self._note(UNDO, only=paths)

    def _note(self, who: str, *, only: Collection[str] | None = None) -> None:
        if self._known is None:
            before: Manifest = self._store.load(self._before)
            ledger = read_ledger(self._store, self._path) or Ledger()
            self._known = ledger.known(before.entries)
        present, unread = self._store.scan(self._root, self._known)
        changed = {
            path: present.get(path)
            for path in self._known.keys() | present.keys()
            if not same_entry(self._known.get(path), present.get(path))
            and path not in unread
            and (only is None or path in only)
        }
        self._known = present
        if changed:
            self._write({"who": who, "paths": msgspec.to_builtins(changed)})

    def _write(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.open("ab") as file:
            # The standard json keeps names that are not valid UTF-8 (as lone surrogates).
            file.write(json.dumps(line).encode("ascii") + b"\n")


def read_ledger(store: SnapshotStore, path: Path | str) -> Ledger | None:
    """The ledger of a run's id, or of a log's path; None when it kept none. What a crash cut is
    left out."""
    file = store.changes_path(path) if isinstance(path, str) else path
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return None
    ledger = Ledger()
    for text in lines:
        with suppress(ValueError):  # msgspec's ValidationError is one
            line = json.loads(text)
            if "paths" not in line:
                ledger.cut_off = "began" in line
                continue
            paths = msgspec.convert(line["paths"], dict[str, Entry | None])
            for name, entry in paths.items():
                ledger.changes.setdefault(name, []).append((line["who"], entry))
    return ledger
