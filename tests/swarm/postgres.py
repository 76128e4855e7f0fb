"""A PostgreSQL server of its own, in a temporary folder, reached by a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSTALL = "scripts/setup_system.sh --with postgresql"


def program(name: str) -> str | None:
    """A server program; Debian keeps them out of the path, a folder a version."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else shutil.which(name)


def need_postgres() -> None:
    """Skip without PostgreSQL; in CI that is a failure."""
    if program("initdb") and program("postgres"):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"PostgreSQL is not installed: {INSTALL}")
    pytest.skip(f"PostgreSQL is not installed: {INSTALL}")


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a fresh server. It refuses to run as root, so root gives way to another user."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # socket paths are short
    user: dict[str, int] = {}
    if os.geteuid() == 0:
        known = {each.pw_name for each in pwd.getpwall()}
        other = pwd.getpwnam("postgres" if "postgres" in known else "nobody")
        user = {"user": other.pw_uid, "group": other.pw_gid}
        os.chown(folder, other.pw_uid, other.pw_gid)
    folder.chmod(0o755)
    initdb, postgres = program("initdb"), program("postgres")
    assert initdb is not None
    assert postgres is not None
    data = folder / "data"
    try:
        subprocess.run(
            [initdb, "-D", str(data), "-U", "perilune", "-A", "trust", "-E", "UTF8", "--locale=C",
             "--no-sync"],
            check=True, capture_output=True, cwd=folder, **user,
        )  # fmt: skip
        server = subprocess.Popen(
            [postgres, "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-F",
             "-c", "max_connections=60"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **user,
        )  # fmt: skip
        try:
            url = f"postgresql://perilune@/postgres?host={folder}"
            _wait_for(url, server)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # now, not when the last client has left
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
