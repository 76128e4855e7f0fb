"""Which Python runs inside the sandbox, and which folders it needs to see.

The interpreter of this process is used, so that sandboxed code has the same packages: its tree and
its virtual environment are shown read-only at their own paths, wherever they lie (a home folder,
the project), and nothing else around them. A tree that cannot be shown falls back to the system's.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from perilune.errors import SandboxError

ENVIRONMENT_VARIABLE = "PERILUNE_SANDBOX_PYTHON"
_SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")


@dataclass(frozen=True, slots=True)
class SandboxPython:
    """`executable` as seen inside; `trees` are the folders outside of /usr that it needs."""

    executable: str
    trees: tuple[Path, ...]

    @property
    def bin(self) -> str:
        return str(Path(self.executable).parent)


def trees_within(workspace: Path, python: SandboxPython) -> list[Path]:
    """The interpreter's trees that are in the workspace; a command must not change them.

    A virtual environment in the project is the usual case. What is written there would run outside
    of the sandbox, with us, the next time.
    """
    real = workspace.resolve()
    own = {Path(sys.prefix), *python.trees}
    return sorted(tree for tree in own if tree.resolve().is_relative_to(real) and tree.is_dir())


@cache
def sandbox_python() -> SandboxPython:
    """The interpreter for sandboxed code.

    `PERILUNE_SANDBOX_PYTHON` names another one. Raises `SandboxError` when there is none to show.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return _of_executable(Path(named))
    own = _trees(Path(sys.prefix), Path(sys.base_prefix))
    if own is not None and sys.executable:
        return SandboxPython(sys.executable, own)
    return system_python()


def system_python() -> SandboxPython:
    """The Python of the operating system, which /usr holds whole."""
    for candidate in _SYSTEM_PYTHONS:
        if os.access(candidate, os.X_OK):
            return SandboxPython(candidate, ())
    raise SandboxError(
        "there is no Python that the sandbox could show to its commands",
        remedy=f"Install python3, or name one with {ENVIRONMENT_VARIABLE}.",
    )


def _of_executable(executable: Path) -> SandboxPython:
    """An interpreter by path: a virtual environment's (`pyvenv.cfg`), or a plain one's."""
    if not os.access(executable, os.X_OK):
        raise SandboxError(
            f"{ENVIRONMENT_VARIABLE} names {executable}, which cannot be run",
            remedy="Name a Python executable, or leave the variable out.",
        )
    prefix = executable.absolute().parent.parent
    base = executable.resolve().parent.parent
    trees = _trees(prefix, base)
    if trees is None:
        raise SandboxError(
            f"the tree of {executable} holds the home folder, so it cannot be shown",
            remedy="Name an interpreter in a folder of its own.",
        )
    return SandboxPython(str(executable.absolute()), trees)


def _trees(prefix: Path, base: Path) -> tuple[Path, ...] | None:
    """The folders to show; None when one of them holds more than an interpreter."""
    home = Path.home().resolve()
    shown: list[Path] = []
    for tree in dict.fromkeys((prefix, base.resolve())):
        if tree.resolve() == home or tree.resolve() in home.parents:
            if tree.resolve() != Path("/usr"):
                return None
            continue
        if not tree.resolve().is_relative_to("/usr"):
            shown.append(tree)
    return tuple(shown)
