"""The first-class boundary: bubblewrap's namespaces, our seccomp filter, prlimit inside.

New user, pid, network, ipc, uts and cgroup namespaces; a root of its own that shows /usr, the
interpreter and the workspace and nothing else; an empty environment; no capabilities, no further
user namespaces. Root goes through `setpriv` to an id of its own first (see `identity.py`), and
shows it the workspace, and folders that it cannot reach, in a private view (see `view.py`).
"""

# ruff: noqa: S108 (the /tmp here is the sandbox's own)

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perilune.errors import SandboxError
from perilune.processes import find_program
from perilune.sandbox.command import Command, Prepared, memory_file
from perilune.sandbox.mounts import INSIDE as INSIDE
from perilune.sandbox.mounts import Mount as Mount
from perilune.sandbox.orphans import mark
from perilune.sandbox.view import STAGE, Shown, enter, open_view

if TYPE_CHECKING:
    from perilune.sandbox.identity import Identity
    from perilune.sandbox.interpreter import SandboxPython
    from perilune.sandbox.limits import Limits

HOME = "/tmp/home"
INSTALL = "sudo apt-get install -y bubblewrap"

_UID = "1000"
_PASSWD = (
    b"root:x:0:0:root:/root:/usr/sbin/nologin\n"
    b"sandbox:x:1000:1000:sandbox:/tmp/home:/bin/bash\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_GROUP = b"root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"
_ETC = ("ld.so.cache", "alternatives", "ssl", "localtime", "fonts", "mime.types")


def find_bubblewrap() -> str:
    """Path of `bwrap`. Raises `SandboxError` with the line that installs it."""
    found = find_program("bwrap")
    if found is None:
        raise SandboxError("bubblewrap is not installed", remedy=f"Run: {INSTALL}")
    return found


def base_environment(python: SandboxPython, *, home: str, scratch: str) -> dict[str, str]:
    """The whole environment of a sandboxed command; nothing of ours is handed on."""
    path = dict.fromkeys((python.bin, "/usr/local/bin", "/usr/bin", "/bin"))
    return {
        "PATH": ":".join(path),
        "HOME": home,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "MPLBACKEND": "Agg",
        # The workspace and its git directory are mounts of their own.
        "GIT_DISCOVERY_ACROSS_FILESYSTEM": "1",
        # Behind landlock /etc/gitconfig cannot be read, which git calls fatal.
        "GIT_CONFIG_NOSYSTEM": "1",
        # On a machine of many cores one library's threads would fill the process limit.
        "OMP_NUM_THREADS": str(min(8, os.cpu_count() or 1)),
        # Compiled files and caches must not litter the workspace.
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": f"{scratch}/matplotlib",
    }


def resource_limits(limits: Limits) -> list[str]:
    """The `prlimit` in front of a command; it is set inside, where the process count is ours."""
    bounds = [
        f"--nproc={limits.processes}",
        f"--nofile={limits.open_files}",
        f"--fsize={limits.file_size}",
        "--core=0",
    ]
    if limits.cpu_seconds is not None:
        bounds.append(f"--cpu={limits.cpu_seconds}")
    if limits.data is not None:
        bounds.append(f"--data={limits.data}")
    if limits.address_space is not None:
        bounds.append(f"--as={limits.address_space}")
    return ["/usr/bin/prlimit", *bounds, "--"]


def bubblewrap_command(
    prepared: Prepared, *, mounts: Sequence[Mount], environment: Mapping[str, str]
) -> Command:
    """The command line that runs a command in its workspace behind the boundary."""
    limits = prepared.limits
    passwd_fd, group_fd = memory_file("passwd", _PASSWD), memory_file("group", _GROUP)
    gitconfig_fd = memory_file("gitconfig", prepared.gitconfig.encode())
    prepared.fds.extend((passwd_fd, group_fd, gitconfig_fd))
    git = prepared.git
    shown = [Mount(prepared.workspace, git.inside, writable=True), *mounts]
    place = _stage(prepared, shown)

    line = [find_bubblewrap(), "--seccomp", str(prepared.filter_fd)]
    line += ["--json-status-fd", str(prepared.status_fd)]
    line += [f"--unshare-{each}" for each in ("user", "ipc", "pid", "net", "uts")]
    line += ["--unshare-cgroup-try", "--uid", _UID, "--gid", _UID, "--hostname", "sandbox"]
    line += ["--die-with-parent", "--new-session"]
    line += ["--disable-userns", "--assert-userns-disabled"]
    # Not for the command: how orphans are found in the list of processes.
    line += ["--cap-drop", "ALL", "--unsetenv", mark(), "--clearenv"]
    for name, value in {**environment, **prepared.environment}.items():
        line += ["--setenv", name, value]
    line += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if Path("/", name).is_symlink():
            line += ["--symlink", f"usr/{name}", f"/{name}"]
        elif Path("/", name).is_dir():
            line += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in _ETC:
        line += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    line += ["--ro-bind-data", str(passwd_fd), "/etc/passwd"]
    line += ["--ro-bind-data", str(group_fd), "/etc/group"]
    line += ["--proc", "/proc", "--dev", "/dev", "--size", str(limits.scratch), "--tmpfs", "/tmp"]
    line += ["--perms", "1777", "--size", str(limits.scratch), "--tmpfs", "/dev/shm"]
    line += ["--remount-ro", "/dev", "--dir", HOME, "--dir", "/run"]
    line += ["--file", str(gitconfig_fd), f"{HOME}/.gitconfig"]
    for each in shown:
        source = _seen_at(each.source, place)
        line += ["--bind" if each.writable else "--ro-bind", str(source), each.target]
    if git.inside != INSIDE:
        line += ["--symlink", git.inside, INSIDE]
    for folder in git.empty:
        line += ["--dir", folder]
    for target, path in git.links:
        line += ["--symlink", target, path]
    line += ["--chdir", git.inside, "--remount-ro", "/", "--"]
    line += [*resource_limits(limits), *prepared.argv]

    line = _supervised(line, prepared)
    own = (prepared.filter_fd, prepared.status_fd, passwd_fd, group_fd, gitconfig_fd)
    return Command(line, (*own, *prepared.pass_fds))


def _stage(prepared: Prepared, shown: Sequence[Mount]) -> dict[Path, Path]:
    """Open the view that root's commands need; host folder -> its place in the view."""
    identity = prepared.identity
    mapped_folders = {prepared.workspace} if prepared.mapped else set()
    mapped_folders |= prepared.git.mapped
    place: dict[Path, Path] = {}
    if not identity.dropped:
        return place
    for each in shown:
        mapped = each.source in mapped_folders
        if _seen_at(each.source, place) != each.source:
            continue
        if mapped or not reachable(each.source, identity):
            place[each.source] = STAGE / str(len(place))
    if place:
        views = [Shown(at, to, at in mapped_folders) for at, to in place.items()]
        prepared.held.append(open_view(views))
    return place


def _seen_at(source: Path, place: Mapping[Path, Path]) -> Path:
    """Where a host folder is found in the view."""
    for staged, where in place.items():
        if source.is_relative_to(staged):
            return where / source.relative_to(staged)
    return source


def _supervised(line: list[str], prepared: Prepared) -> list[str]:
    """Tie the command to us, enter root's view, join the control group, drop, then go on.

    bubblewrap asks the kernel to die with its parent, but a parent that died before is not
    noticed. So the same is asked for first of all, and again after the drop, which undoes it; each
    time it is then checked that we are still there.
    """
    identity = prepared.identity
    die_with_us = ["--pdeathsig", "SIGKILL", "--"]
    check = f'[ "$PPID" -eq {os.getpid()} ] || exit 1'
    joins = [f"echo $$ > {shlex.quote(str(path))}" for path in prepared.join_files]
    first = ["setpriv", *die_with_us]
    for view in prepared.held:
        first += enter(view)
    first += ["/bin/sh", "-c", "\n".join(["set -e", check, *joins, 'exec "$@"']), "sh"]
    drop: list[str] = []
    if identity.dropped:
        drop = ["setpriv", f"--reuid={identity.uid}", f"--regid={identity.gid}"]
        drop += ["--clear-groups", "--no-new-privs", *die_with_us]
        drop += ["/bin/sh", "-c", f'{check}\nexec "$@"', "sh"]
    return [*first, *drop, *line]


def reachable(path: Path, identity: Identity) -> bool:
    """Whether the id may walk down to `path` (the last part itself needs no more than be there)."""
    for parent in path.parents:
        status = parent.stat()
        if status.st_uid == identity.uid:
            needed = 0o100
        elif status.st_gid == identity.gid:
            needed = 0o010
        else:
            needed = 0o001
        if not status.st_mode & needed:
            return False
    return True
