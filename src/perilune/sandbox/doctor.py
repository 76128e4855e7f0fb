"""What the sandbox holds on this machine, found by running probes inside it, not by asking."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perilune.errors import SandboxError
from perilune.sandbox.cgroup import cgroup_kind
from perilune.sandbox.identity import DROPPED_UID
from perilune.sandbox.landlock import SIGNAL_SCOPE_SINCE, landlock_version
from perilune.sandbox.limits import MIB, Limits
from perilune.sandbox.opening import open_sandbox
from perilune.sandbox.sandbox import Sandbox, SandboxKind
from perilune.sandbox.view import why_not_mapped


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `ok` False: a promise that does not hold here; `remedy`: what to do about it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


# name -> Python that exits 0 when the boundary held. {host_file}, {port} and {pid} are the host's.
_PROBES: dict[str, str] = {
    "host files hidden": """
import os, sys
for path in ("/etc/shadow", {host_file!r}, "/root/.bashrc"):
    try:
        open(path).read()
        sys.exit(path + " was read")
    except OSError:
        pass
""",
    "system read-only": """
import sys
try:
    open("/usr/perilune-probe", "w")
    sys.exit("/usr was written")
except OSError:
    pass
""",
    "no network": """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    sys.exit("a port of the host answered")
except OSError:
    pass
""",
    "only unix sockets": """
import socket, sys
for family in range(2, 46):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
        sys.exit(f"a socket of family {{family}} was opened")
    except OSError:
        pass
""",
    "no secrets in the environment": """
import os, sys
sys.exit("a variable was seen" if "PERILUNE_PROBE" in os.environ else 0)
""",
    "host processes out of reach": """
import os, sys
try:
    os.kill({pid}, 0)
    sys.exit("a process of the host could be signalled")
except OSError:
    pass
""",
    "no user namespaces, no mounts": """
import ctypes, sys
libc = ctypes.CDLL(None)
if libc.unshare(0x10000000) == 0 or libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
    sys.exit("allowed")
""",
    "memory bounded": """
import sys
try:
    bytearray(8 << 30)
    sys.exit("8 GiB were given")
except MemoryError:
    pass
""",
    "processes bounded": """
import os, sys, time
for count in range(2000):
    try:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
    except OSError:
        sys.exit(0)
sys.exit("2000 forks were allowed")
""",
}


def doctor_checks(kind: SandboxKind = "bubblewrap") -> list[Check]:
    """Open the sandbox, run every probe, and say what holds; takes about two seconds."""
    return list(_checks(kind))


def _checks(kind: SandboxKind) -> Iterator[Check]:
    try:
        sandbox = open_sandbox(kind)
    except SandboxError as error:
        yield Check(f"sandbox ({kind})", False, error.message, error.remedy)
        version = landlock_version()
        yield Check("landlock", version > 0, f"ABI {version}" if version else "not in this kernel")
        return
    yield from _probes(sandbox)
    groups = cgroup_kind()
    bound = "kernel" if groups.bounds_memory else "a watch ten times per second"
    yield Check("total memory", True, f"bounded by the {bound}; control group: {groups}")
    if os.geteuid() == 0:
        refused = why_not_mapped(Path(tempfile.gettempdir()))
        lent = f"lent to user id {DROPPED_UID} while a run lasts, then given back ({refused})"
        kept = "kept: commands see it through an id-mapped mount"
        yield Check("owner of root's workspace", True, lent if refused else kept)
    if kind == "landlock":
        version = landlock_version()
        yield Check(
            "signals and abstract sockets scoped",
            version >= SIGNAL_SCOPE_SINCE,
            f"landlock ABI {version}, since {SIGNAL_SCOPE_SINCE}",
            "A newer kernel, or bubblewrap.",
        )


def _probes(sandbox: Sandbox) -> Iterator[Check]:
    limits = Limits(wall_seconds=20, memory=512 * MIB, data=512 * MIB)
    with (
        tempfile.TemporaryDirectory(prefix="perilune-doctor-") as folder,
        tempfile.NamedTemporaryFile(prefix="perilune-doctor-") as host_file,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        workspace = Path(folder)
        workspace.chmod(0o755)
        Path(host_file.name).chmod(0o644)
        facts = {
            "host_file": host_file.name,
            "port": server.getsockname()[1],
            "pid": os.getppid(),
        }
        started = time.monotonic()
        sandbox.run(["/usr/bin/true"], workspace=workspace)
        taken = 1000 * (time.monotonic() - started)
        yield Check(f"sandbox ({sandbox.kind})", True, f"starts in {taken:.0f} ms")
        os.environ["PERILUNE_PROBE"] = "seen"
        try:
            for name, source in _PROBES.items():
                code = source.format(**facts)
                result = sandbox.run(
                    [sandbox.python.executable, "-I", "-S", "-c", code],
                    workspace=workspace,
                    limits=limits,
                )
                detail = "holds" if result.ok else result.stderr.strip() or result.explanation
                yield Check(name, result.ok, detail)
        finally:
            del os.environ["PERILUNE_PROBE"]
