"""`open_sandbox`: a boundary that was seen to hold, or a refusal that says what to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perilune.errors import SandboxError
from perilune.sandbox.bubblewrap import Mount, find_bubblewrap
from perilune.sandbox.kinds import BubblewrapSandbox, LandlockSandbox
from perilune.sandbox.landlock import landlock_version
from perilune.sandbox.lending import collect_loans
from perilune.sandbox.limits import Limits
from perilune.sandbox.orphans import kill_orphans
from perilune.sandbox.sandbox import Sandbox, SandboxKind


def open_sandbox(
    kind: SandboxKind = "bubblewrap",
    *,
    limits: Limits | None = None,
    mounts: Sequence[Mount] = (),
    use_cgroup: bool = True,
) -> Sandbox:
    """A sandbox that was seen to work: it ran `true` once.

    Raises `SandboxError` with the remedy when the boundary does not hold on this machine.
    """
    if not hasattr(os, "pidfd_open") or not Path("/proc/self").is_dir():
        raise SandboxError(
            "the sandbox needs Linux 5.3 or later",
            remedy="On another system, run Perilune inside a Linux virtual machine.",
        )
    kill_orphans()
    if os.geteuid() == 0:
        collect_loans()
    if kind == "bubblewrap":
        find_bubblewrap()
        sandbox: Sandbox = BubblewrapSandbox(limits=limits, mounts=mounts, use_cgroup=use_cgroup)
    elif kind == "landlock":
        if landlock_version() < 1:
            raise SandboxError(
                "this kernel has no landlock",
                remedy="It needs Linux 5.13 with landlock among its security modules.",
            )
        sandbox = LandlockSandbox(limits=limits, mounts=mounts, use_cgroup=use_cgroup)
    else:
        raise SandboxError(
            f"there is no sandbox called {kind!r}", remedy="Choose bubblewrap or landlock."
        )
    _try_once(sandbox)
    return sandbox


def _try_once(sandbox: Sandbox) -> None:
    """Run `true`: that the parts are there does not mean that the kernel lets them work."""
    with tempfile.TemporaryDirectory(prefix="perilune-probe-") as folder:
        Path(folder).chmod(0o755)
        try:
            result = sandbox.run(["/usr/bin/true"], workspace=Path(folder))
        except SandboxError as error:
            raise SandboxError(error.message, remedy=_remedy(sandbox.kind)) from None
    if not result.ok:
        raise SandboxError(
            f"the {sandbox.kind} sandbox does not work here: {result.explanation}",
            remedy=_remedy(sandbox.kind),
        )


def _remedy(kind: SandboxKind) -> str:
    """What most likely helps, from what the kernel says about itself."""
    if kind == "landlock":
        return (
            "Install bubblewrap for the strong boundary, or leave bash, python and run_tests out."
        )
    weaker = "Or ask for the weaker boundary: --sandbox landlock."
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    clone = Path("/proc/sys/kernel/unprivileged_userns_clone")
    if restricted.exists() and restricted.read_text().strip() == "1":
        return (
            "AppArmor refuses user namespaces here; allow them for bwrap with a profile, or run: "
            f"sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0. {weaker}"
        )
    if clone.exists() and clone.read_text().strip() == "0":
        return f"Run: sudo sysctl kernel.unprivileged_userns_clone=1. {weaker}"
    if Path("/.dockerenv").exists():
        return (
            "Docker's default profile refuses user namespaces; start the container with "
            f"--security-opt seccomp=unconfined. {weaker}"
        )
    return f"The kernel must allow user namespaces (user.max_user_namespaces > 0). {weaker}"
