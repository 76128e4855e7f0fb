"""The two sandboxes: bubblewrap's strong boundary, and landlock's weaker one."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path

from perilune.errors import SandboxError
from perilune.sandbox.bubblewrap import (
    HOME,
    base_environment,
    bubblewrap_command,
    reachable,
)
from perilune.sandbox.command import Command, Prepared
from perilune.sandbox.interpreter import sandbox_python, system_python, trees_within
from perilune.sandbox.landlock import landlock_command
from perilune.sandbox.limits import Limits
from perilune.sandbox.mounts import Mount, in_order
from perilune.sandbox.sandbox import Sandbox


class BubblewrapSandbox(Sandbox):
    """The strong boundary: see `bubblewrap.py`."""

    kind = "bubblewrap"

    def _command(self, prepared: Prepared) -> Command:
        trees = [Mount(tree, str(tree)) for tree in self.python.trees]
        kept = [tree.resolve() for tree in trees_within(prepared.workspace, self.python)]
        guarded = [
            each for each in prepared.git.mounts
            if not any(each.source.is_relative_to(tree) for tree in kept)
        ]  # fmt: skip
        for tree in kept:
            guarded += _protected(tree, prepared.workspace, prepared.git.inside)
        return bubblewrap_command(
            prepared,
            mounts=[*trees, *in_order(guarded), *self.mounts],
            environment=base_environment(self.python, home=HOME, scratch="/tmp"),  # noqa: S108
        )


def _protected(tree: Path, workspace: Path, seen_at: str) -> list[Mount]:
    """Mounts that show `tree` read-only over the writable workspace.

    The folders on the way become mounts too, for a mount cannot be renamed: else a command could
    move one aside and put another in its place.
    """
    inside = [*reversed(tree.relative_to(workspace).parents)][1:]
    way = [Mount(workspace / part, f"{seen_at}/{part}", writable=True) for part in inside]
    return [*way, Mount(tree, f"{seen_at}/{tree.relative_to(workspace)}")]


class LandlockSandbox(Sandbox):
    """The weaker boundary that must be asked for: see `landlock.py`."""

    kind = "landlock"
    _mounts = False
    _gentle_signal = signal.SIGTERM  # the launcher kills the tree that it alone can see whole

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        mounts: Sequence[Mount] = (),
        use_cgroup: bool = True,
    ) -> None:
        # Without mounts of our own, the id that root drops to may not reach our interpreter.
        python = system_python() if os.geteuid() == 0 else sandbox_python()
        super().__init__(limits=limits, mounts=mounts, python=python, use_cgroup=use_cgroup)
        if any(each.writable or each.target != str(each.source) for each in self.mounts):
            raise SandboxError("landlock shows folders read-only and at their own paths only")

    def _command(self, prepared: Prepared) -> Command:
        workspace, identity = prepared.workspace, prepared.identity
        for tree in trees_within(workspace, self.python):
            raise SandboxError(
                f"{tree} is in the workspace, and landlock could not keep commands from changing "
                "the interpreter that runs us",
                remedy="Use bubblewrap, or a workspace that does not hold it.",
            )
        if not reachable(workspace, identity):
            raise SandboxError(
                f"user id {identity.uid}, which commands run under, cannot reach {workspace}",
                remedy="Put the workspace outside of root's home, or use bubblewrap.",
            )
        python = self.python
        scratch = self._folder / f"scratch-{identity.uid}"
        if not scratch.exists():
            scratch.mkdir(0o700)
            self._folder.chmod(0o711)
            if identity.dropped:
                os.chown(scratch, identity.uid, identity.gid)
        # A command may set what it likes in there; it is its own.
        config = scratch / f"gitconfig-{zlib.crc32(prepared.gitconfig.encode())}"
        if not config.exists():
            config.write_text(prepared.gitconfig, "utf-8")
            if identity.dropped:
                os.chown(config, identity.uid, identity.gid)
        return landlock_command(
            prepared,
            launcher_python=python.executable,
            readable=[*python.trees, *(each.source for each in self.mounts), *_git_shown(prepared)],
            scratch=scratch,
            environment={
                **base_environment(python, home=str(scratch), scratch=str(scratch)),
                "GIT_CONFIG_GLOBAL": str(config),
            },
        )


def _git_shown(prepared: Prepared) -> list[Path]:
    """What of a repository outside of the workspace can be read, where landlock can show it."""
    git = prepared.git
    if git.outside is None or git.inside != str(prepared.workspace):
        return []
    around = [each.source for each in git.mounts if not each.writable]
    return [git.outside, *around]
