"""The weaker boundary for machines that refuse user namespaces: landlock + seccomp + prlimit.

It must be asked for by name (`--sandbox landlock`). Files outside the workspace, sockets and
signals to other processes are refused as with bubblewrap, but there is no pid namespace (the
process tree is killed by a subreaper that walks it), `/proc` is closed instead of private, limits
on the number of processes count the user's others too, and that foreign files exist is not hidden.
Source: Linux `Documentation/userspace-api/landlock.rst`.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from perilune.sandbox.command import Command, Prepared
from perilune.sandbox.view import Shown, enter, open_view

_CREATE_RULESET = 444
_VERSION_FLAG = 1

SIGNAL_SCOPE_SINCE = 6

# What a command may read and run besides its interpreter.
_READABLE = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/ssl",
    "/etc/localtime",
    "/etc/fonts",
    "/etc/mime.types",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def landlock_version() -> int:
    """The kernel's landlock ABI, 0 when there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(0, int(version))


def landlock_command(
    prepared: Prepared,
    *,
    launcher_python: str,
    readable: Sequence[Path],
    scratch: Path,
    environment: Mapping[str, str],
) -> Command:
    """The command line that runs a command in its workspace behind landlock.

    A small launcher (`landlock_launcher.py`, standard library only) applies the rules to itself's
    child and stays as the tree's reaper.
    """
    limits, identity = prepared.limits, prepared.identity
    settings = {
        "supervisor": os.getpid(),
        "argv": list(prepared.argv),
        "workspace": str(prepared.workspace),
        "environment": {**environment, **prepared.environment},
        "writable": [str(prepared.workspace), str(scratch)],
        "readable": [*_READABLE, *map(str, readable)],
        "devices": list(_DEVICES),
        "filter_fd": prepared.filter_fd,
        "status_fd": prepared.status_fd,
        "keep_fds": list(prepared.pass_fds),
        "rlimits": {
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_FSIZE": limits.file_size,
            "RLIMIT_CORE": 0,
            "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_DATA": limits.data,
            "RLIMIT_AS": limits.address_space,
        },
    }
    source = Path(__file__).with_name("landlock_launcher.py").read_text("utf-8")
    line = [launcher_python, "-I", "-S", "-c", source, json.dumps(settings)]
    if identity.dropped:
        drop = ["setpriv", f"--reuid={identity.uid}", f"--regid={identity.gid}"]
        line = [*drop, "--clear-groups", "--no-new-privs", "--", *line]
    if prepared.join_files:
        joins = "".join(f"echo $$ > '{path}'\n" for path in prepared.join_files)
        line = ["/bin/sh", "-c", f'set -e\n{joins}exec "$@"', "sh", *line]
    if prepared.mapped:
        workspace = prepared.workspace
        prepared.held.append(open_view([Shown(workspace, workspace, mapped=True)]))
        line = [*enter(prepared.held[-1]), *line]
    return Command(line, (prepared.filter_fd, prepared.status_fd, *prepared.pass_fds))
