"""`Sandbox`: what all boundaries share: to prepare a command, start it, and give its result."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from perilune.errors import SandboxError
from perilune.sandbox.cgroup import Cgroup, cgroup_kind
from perilune.sandbox.command import Command, Prepared, memory_file
from perilune.sandbox.git_config import quoted
from perilune.sandbox.git_settle import GitGuard
from perilune.sandbox.git_view import GitView, GitWatch
from perilune.sandbox.host_git import committer_of
from perilune.sandbox.identity import Identity, check_workspace, identity_for
from perilune.sandbox.interpreter import SandboxPython, sandbox_python, trees_within
from perilune.sandbox.lending import Loan, lend, why_lent
from perilune.sandbox.limits import Limits, SandboxResult
from perilune.sandbox.mounts import Mount
from perilune.sandbox.process import Launch, SandboxProcess
from perilune.sandbox.seccomp import filter_program
from perilune.sandbox.watch import folder_size

SandboxKind = Literal["bubblewrap", "landlock"]


class Sandbox(ABC):
    """Runs commands with no network, no secrets, no view of the host, and bounds on everything.

    `mounts` shows further host folders inside (read-only unless said otherwise). One `Sandbox` may
    serve many workspaces and many commands at a time, from any thread.
    """

    kind: SandboxKind
    _gentle_signal: int | None = None
    _mounts = True  # it can keep paths of the workspace from being changed

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        mounts: Sequence[Mount] = (),
        python: SandboxPython | None = None,
        use_cgroup: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self.python = python or sandbox_python()
        self.mounts = tuple(mounts)
        self._cgroups = cgroup_kind() if use_cgroup else None
        self._preparing = threading.Lock()
        self._sizes: dict[Path, int] = {}
        self._mapped: dict[Path, bool] = {}
        self._loans: dict[Path, Loan] = {}
        self._git: dict[Path, GitWatch] = {}
        self._gitconfigs: dict[Path, str] = {}
        weakref.finalize(self, _give_back, self._loans, self._loans)
        folder = tempfile.TemporaryDirectory(prefix="perilune-sandbox-")
        self._folder = Path(folder.name)
        self._finalizer = weakref.finalize(self, folder.cleanup)

    def run(
        self,
        argv: Sequence[str],
        *,
        workspace: Path,
        limits: Limits | None = None,
        stdin: bytes | str | None = None,
        environment: Mapping[str, str] | None = None,
        merge_stderr: bool = False,
    ) -> SandboxResult:
        """Run a command to its end. `stdin` None is `/dev/null`.

        A command that fails, is stopped or is refused something is a result like any other.
        Raises `SandboxError` when the boundary could not be set up; then nothing was run.
        """
        process = self.start(
            argv,
            workspace=workspace,
            limits=limits,
            stdin=stdin,
            environment=environment,
            merge_stderr=merge_stderr,
        )
        try:
            return process.wait()
        except BaseException:
            process.kill()
            raise

    async def run_async(
        self,
        argv: Sequence[str],
        *,
        workspace: Path,
        limits: Limits | None = None,
        stdin: bytes | str | None = None,
        environment: Mapping[str, str] | None = None,
        merge_stderr: bool = False,
    ) -> SandboxResult:
        """The same without blocking the event loop; cancelling it kills the command."""
        process = await asyncio.to_thread(
            self.start,
            argv,
            workspace=workspace,
            limits=limits,
            stdin=stdin,
            environment=environment,
            merge_stderr=merge_stderr,
        )
        future = asyncio.wrap_future(process.result)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            process.kill()
            await asyncio.wait([future])
            future.exception()
            raise

    def start(
        self,
        argv: Sequence[str],
        *,
        workspace: Path,
        limits: Limits | None = None,
        stdin: bytes | str | None = None,
        environment: Mapping[str, str] | None = None,
        merge_stderr: bool = False,
        pass_fds: Sequence[int] = (),
        close_fds: Sequence[int] = (),
    ) -> SandboxProcess:
        """Start a command and return at once.

        `pass_fds` are inherited under the same numbers; `close_fds` are closed on this side once
        the command has them, or when it could not be started.
        """
        limits = limits or self.limits
        with ExitStack() as on_failure:
            for descriptor in close_fds:
                on_failure.callback(os.close, descriptor)
            if any("\0" in each for each in (*argv, *(environment or {}).values())):
                raise SandboxError("a command line cannot hold a zero byte")
            workspace = check_workspace(workspace)
            identity = identity_for(workspace)
            mapped, git = self._prepare(workspace, identity)
            cgroup = None
            if self._cgroups is not None and self._cgroups.version != "none":
                cgroup = Cgroup(self._cgroups, limits)
                on_failure.callback(cgroup.remove)
            status_read, status_write = os.pipe()
            on_failure.callback(os.close, status_read)
            fds = [status_write, memory_file("seccomp", filter_program())]
            held: list[int] = []
            on_failure.callback(_close_all, fds)
            on_failure.callback(_close_all, held)
            command = self._command(
                Prepared(
                    argv=argv,
                    workspace=workspace,
                    identity=identity,
                    limits=limits,
                    environment=environment or {},
                    status_fd=fds[0],
                    filter_fd=fds[1],
                    fds=fds,
                    pass_fds=pass_fds,
                    join_files=cgroup.join_files if cgroup else [],
                    mapped=mapped,
                    held=held,
                    git=git,
                    gitconfig=self._gitconfigs[workspace],
                )
            )
            guard = GitGuard(self._git[workspace], git, by_mounts=self._mounts)
            on_failure.pop_all()
        return SandboxProcess(
            Launch(
                argv=command.argv,
                pass_fds=command.pass_fds,
                fds=[*fds, *close_fds],
                status_fd=status_read,
                held=held,
                limits=limits,
                stdin=stdin.encode() if isinstance(stdin, str) else stdin,
                merge_stderr=merge_stderr,
                cgroup=cgroup,
                watch_memory=cgroup is None or not cgroup.bounds_memory,
                grown=lambda: folder_size(workspace) - self._sizes[workspace],
                output_folder=self._folder,
                gentle_signal=self._gentle_signal,
                settle=guard.settle,
            )
        )

    @abstractmethod
    def _command(self, prepared: Prepared) -> Command:
        """The command line of one command; descriptors of its own go into `prepared.fds`."""

    def _prepare(self, workspace: Path, identity: Identity) -> tuple[bool, GitView]:
        """See to it that the id can write there, once for a workspace, and measure it.

        Gives whether the workspace must be shown id-mapped, and what is shown of git.
        """
        with self._preparing:
            if workspace not in self._sizes:
                keep = trees_within(workspace, self.python)
                if identity.for_root:
                    # One sandbox may see thousands of workspaces that come and go.
                    _give_back(self._loans, [each for each in self._loans if not each.exists()])
                    self._mapped[workspace] = self._map_or_lend(workspace, keep)
                self._git[workspace] = GitWatch(workspace)
                self._gitconfigs[workspace] = _global_gitconfig(workspace)
                self._sizes[workspace] = folder_size(workspace)
            view = self._git[workspace].view()
            if view.outside is not None and identity.for_root:
                if view.outside not in self._mapped:
                    self._mapped[view.outside] = self._map_or_lend(view.outside)
                if self._mapped[view.outside]:
                    view = replace(view, mapped=frozenset({view.outside}))
            return self._mapped.get(workspace, False), view

    def _map_or_lend(self, folder: Path, keep: Sequence[Path] = ()) -> bool:
        """Whether a folder of root's can be shown id-mapped; lent to the dropped id when not."""
        if not why_lent(folder, keep):
            return True
        self._loans[folder] = lend(folder, keep)
        return False


def _global_gitconfig(workspace: Path) -> str:
    """What git in the sandbox takes for the user's own configuration: name and mail, no more."""
    committer = committer_of(workspace)
    lines = ["[safe]\n\tdirectory = *\n[user]\n\tuseConfigOnly = true\n"]
    for name, value in (("name", committer.name), ("email", committer.email)):
        if value:
            lines.append(f"\t{name} = {quoted(value)}\n")
    return "".join(lines)


def _give_back(loans: dict[Path, Loan], which: Iterable[Path]) -> None:
    for workspace in list(which):
        loans.pop(workspace).give_back()


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
