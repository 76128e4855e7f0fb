"""What a boundary makes a command line of, and the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perilune.sandbox.git_view import GitView
    from perilune.sandbox.identity import Identity
    from perilune.sandbox.limits import Limits


@dataclass(frozen=True, slots=True)
class Prepared:
    """One command, and all that was made ready for it.

    `environment` comes on top of the boundary's own. `fds` are open here until the command has
    its copies: the status pipe and the filter, and what a boundary adds; `pass_fds` are the
    caller's, for the command itself; writing its pid to `join_files` puts a process into the
    control group. `mapped`: the workspace must be shown id-mapped. `held` stay open here until the
    command has ended. `git`: what is shown and kept of git directories; `gitconfig`: the
    text of the command's global git configuration.
    """

    argv: Sequence[str]
    workspace: Path
    identity: Identity
    limits: Limits
    environment: Mapping[str, str]
    status_fd: int
    filter_fd: int
    fds: list[int]
    pass_fds: Sequence[int]
    join_files: Sequence[Path]
    mapped: bool
    held: list[int]
    git: GitView
    gitconfig: str


@dataclass(frozen=True, slots=True)
class Command:
    """What to start: a command line, and the descriptors that it must inherit."""

    argv: list[str]
    pass_fds: tuple[int, ...]


def memory_file(name: str, data: bytes) -> int:
    """A descriptor that reads `data` from its start; the caller closes it."""
    descriptor = os.memfd_create(name)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
