"""Where runs live: `$PERILUNE_HOME`, else the XDG data folder; one folder a run."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from perilune.errors import AgentError, UsageError


def data_home() -> Path:
    """`$PERILUNE_HOME`, or `$XDG_DATA_HOME/perilune`, or `~/.local/share/perilune`."""
    if home := os.environ.get("PERILUNE_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "perilune"


def runs_folder(home: Path | None = None) -> Path:
    return (home or data_home()) / "runs"


def new_run_id() -> str:
    """A name that sorts by time, within a second too: `20261122-143000-8a31f3c9`.

    Three digits are the fraction of the second, the rest is chance.
    """
    now = time.time()
    start = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{start}-{int(now % 1 * 4096):03x}{secrets.randbelow(16**5):05x}"


def make_run_folder(run_id: str, home: Path | None = None) -> Path:
    """Make the run's folder, readable by its owner only (it holds whole conversations)."""
    folder = runs_folder(home) / run_id
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise AgentError(
            f"cannot make the run's folder: {error}",
            remedy="Make room, or set PERILUNE_HOME to a folder that can be written.",
        ) from error
    return folder


def find_run(name: str, home: Path | None = None) -> Path:
    """The folder of a run by its id, the start or end of one, or "last".

    Raises `UsageError` when there is none, or more than one.
    """
    folder = runs_folder(home)
    runs = sorted(each for each in folder.glob("*") if (each / "journal.db").exists())
    if name == "last":
        matches = runs[-1:]
    else:
        matches = [each for each in runs if each.name == name] or [
            each for each in runs if each.name.startswith(name) or each.name.endswith(name)
        ]
    if not matches:
        raise UsageError(f"there is no run {name!r} in {folder}", remedy="See `perilune trace ls`.")
    if len(matches) > 1:
        names = ", ".join(each.name for each in matches[:5])
        raise UsageError(f"{name!r} means several runs: {names}", remedy="Give more of the id.")
    return matches[0]
