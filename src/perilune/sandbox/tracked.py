"""What of the rest of a repository commands in one of its folders see: what git tracks there.

Without it git would call all of that deleted, and `git commit -a` would delete it. What git does
not know (builds, `.env` files, whole folders of the user's own) stays hidden.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_PATHS = 400
"""Each is a mount of its own; with more the repository is not shown."""


@dataclass(slots=True)
class Surroundings:
    """Outside of the workspace: paths to show whole, links (target, path), and submodules."""

    paths: list[Path] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths) + len(self.links) + len(self.empty)


def tracked_around(top: Path, workspace: Path, tracked: Iterable[str]) -> Surroundings | None:
    """The tracked files below `top` and outside of `workspace`, in few paths.

    A folder that holds tracked files only is one path; in any other each part is looked at. None
    when that would be too many.
    """
    tree: dict[str, Any] = {}
    for name in tracked:
        node = tree
        for part in name.split("/"):
            node = node.setdefault(part, {})
    shown = Surroundings()
    _cover(top, tree, workspace, shown)
    return shown if len(shown) <= MOST_PATHS else None


def _cover(folder: Path, tree: dict[str, Any], workspace: Path, shown: Surroundings) -> bool:
    """Whether all in `folder` is tracked; where not, what is goes into `shown`."""
    whole, own = True, Surroundings()
    for entry in os.scandir(folder):
        path, below = Path(entry.path), tree.get(entry.name)
        if below is None or path == workspace:
            whole = False
        elif entry.is_symlink():
            # Followed, it could show any file of the machine.
            own.links.append((os.readlink(path), str(path)))  # noqa: PTH115
        elif not entry.is_dir():
            own.paths.append(path)
        elif not below:  # a submodule: git takes an empty folder for one that is not checked out
            whole = False
            own.empty.append(str(path))
        elif _cover(path, below, workspace, own):
            own.paths.append(path)
        else:
            whole = False
    if not whole:
        shown.paths += own.paths
        shown.links += own.links
        shown.empty += own.empty
    return whole
