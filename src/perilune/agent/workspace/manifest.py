"""What a workspace holds, as a snapshot says it: path -> kind, content hash, mode."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from perilune.agent.endings import RunEnded


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One path: "file" (sha256, mode, and the stat that spares hashing it again), "link", "dir"."""

    kind: str
    content: str = ""
    mode: int = 0
    size: int = 0
    stamp: tuple[int, int, int] = (0, 0, 0)

    @property
    def identity(self) -> tuple[str, str, int]:
        """What makes two entries the same state of a path."""
        return self.kind, self.content, self.mode


class Manifest(msgspec.Struct, frozen=True):
    """All paths of a workspace at one time, relative to it. `unread` could not be read."""

    id: str
    workspace: str
    time: int
    entries: dict[str, Entry]
    unread: list[str] = []

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries.values())


class SnapshotError(RunEnded):
    """A snapshot cannot be taken or found; nothing was changed."""

    code = "snapshot"
    reason = "snapshot"


def read_manifest(path: Path) -> Manifest:
    # The standard json keeps file names that are not valid UTF-8 (as lone surrogates).
    return msgspec.convert(json.loads(path.read_bytes()), Manifest)


def same_entry(one: Entry | None, other: Entry | None) -> bool:
    """Whether two entries, or their absence, are the same state of a path."""
    return (one and one.identity) == (other and other.identity)
