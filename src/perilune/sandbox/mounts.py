"""What of the host a sandbox shows, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

INSIDE = "/workspace"
"""The workspace inside; a link to where it is shown, when that is its own path."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path shown inside at `target`."""

    source: Path
    target: str
    writable: bool = False


def in_order(mounts: list[Mount]) -> list[Mount]:
    """One mount a target, those of folders before what is in them; read-only ones win."""
    chosen: dict[str, Mount] = {}
    for each in mounts:
        if each.target not in chosen or not each.writable:
            chosen[each.target] = each
    return sorted(chosen.values(), key=lambda each: each.target.count("/"))
