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
from pathlib import Path
from typing import Literal

from perilune.agent.sandbox.bubblewrap import Mount
from perilune.agent.sandbox.cgroup import Cgroup, cgroup_kind
from perilune.agent.sandbox.command import Command, Prepared, memory_file
from perilune.agent.sandbox.identity import Identity, check_workspace, identity_for
from perilune.agent.sandbox.interpreter import SandboxPython, sandbox_python, trees_within
from perilune.agent.sandbox.lending import Loan, lend, why_lent
from perilune.agent.sandbox.limits import Limits, SandboxResult
from perilune.agent.sandbox.process import Launch, SandboxProcess
from perilune.agent.sandbox.seccomp import filter_program
from perilune.agent.sandbox.watch import folder_size
from perilune.errors import SandboxError

SandboxKind = Literal["bubblewrap", "landlock"]


class Sandbox(ABC):
    """Runs commands with no network, no secrets, no view of the host, and bounds on everything.

    `mounts` shows further host folders inside (read-only unless said otherwise). One `Sandbox` may
    serve many workspaces and many commands at a time, from any thread.
    """

    kind: SandboxKind
    _gentle_signal: int | None = None

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
            mapped = self._prepare(workspace, identity)
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
                )
            )
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
            )
        )

    @abstractmethod
    def _command(self, prepared: Prepared) -> Command:
        """The command line of one command; descriptors of its own go into `prepared.fds`."""

    def _prepare(self, workspace: Path, identity: Identity) -> bool:
        """Once for a workspace: see to it that the id can write there, and measure it.

        Gives whether the workspace must be shown id-mapped.
        """
        with self._preparing:
            if workspace not in self._sizes:
                keep = trees_within(workspace, self.python)
                if identity.for_root:
                    self._mapped[workspace] = not why_lent(workspace, keep)
                    if not self._mapped[workspace]:
                        # One sandbox may see thousands of workspaces that come and go.
                        _give_back(self._loans, [each for each in self._loans if not each.exists()])
                        self._loans[workspace] = lend(workspace, keep)
                self._sizes[workspace] = folder_size(workspace)
        return self._mapped.get(workspace, False)


def _give_back(loans: dict[Path, Loan], which: Iterable[Path]) -> None:
    for workspace in list(which):
        loans.pop(workspace).give_back()


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
