"""Under which user id a sandboxed command runs.

A plain user keeps their own. Root drops to an id that owns nothing else: limits on the number of
processes are not enforced for kernel uid 0, not even inside a user namespace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from perilune.errors import SandboxError

# Reserved by Debian policy 9.2 and above systemd's dynamic range: nobody's.
DROPPED_UID = 65533

# Never handed to another user id, whatever the caller says.
_SYSTEM = "bin boot dev etc home lib lib64 media mnt opt proc root run sbin srv sys tmp usr var"
_NO_WORKSPACE = {"/", "/usr/local", "/var/lib", *(f"/{name}" for name in _SYSTEM.split())}


@dataclass(frozen=True, slots=True)
class Identity:
    """The host's user and group id of sandboxed processes.

    `dropped`: root gave way to them. `for_root`: the workspace is root's own, and so must be what
    commands do in it; see `view.py` and `lending.py` for how.
    """

    uid: int
    gid: int
    dropped: bool
    for_root: bool = False


def identity_for(workspace: Path) -> Identity:
    """Whose id commands in `workspace` run under: as root in another's folder, that other's."""
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), dropped=False)
    owner = workspace.stat()
    if owner.st_uid not in (0, DROPPED_UID):
        return Identity(owner.st_uid, owner.st_gid or owner.st_uid, dropped=True)
    return Identity(DROPPED_UID, DROPPED_UID, dropped=True, for_root=True)


def check_workspace(workspace: Path) -> Path:
    """The real path of a folder that a sandbox may be given.

    Raises `SandboxError` for what is not a folder, a system folder, or a folder that holds the
    home.
    """
    real = workspace.resolve()
    if not real.is_dir():
        raise SandboxError(f"the workspace {workspace} is not a folder")
    home = Path.home().resolve()
    if str(real) in _NO_WORKSPACE or real == home or real in home.parents:
        raise SandboxError(
            f"{real} cannot be a workspace: commands could change all of it",
            remedy="Make a folder of its own for the task and name it with --workspace.",
        )
    return real
