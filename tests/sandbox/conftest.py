"""The sandboxes under test. Without bubblewrap these tests skip, except in CI, where they fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perilune.errors import SandboxError
from perilune.sandbox import Limits, Sandbox, SandboxResult, open_sandbox
from perilune.sandbox.limits import MIB

LIMITS = Limits(wall_seconds=20, memory=512 * MIB, data=512 * MIB, file_size=64 * MIB)


def opened(kind: str, *, use_cgroup: bool = True) -> Sandbox:
    try:
        return open_sandbox(kind, limits=LIMITS, use_cgroup=use_cgroup)  # type: ignore[arg-type]
    except SandboxError as error:
        if os.environ.get("CI") == "true" and kind == "bubblewrap":
            pytest.fail(f"the sandbox must work in CI: {error}")
        pytest.skip(f"{error}")


@pytest.fixture(scope="session", params=["bubblewrap", "bubblewrap without cgroup", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    kind, _, without = request.param.partition(" ")
    return opened(kind, use_cgroup=not without)


@pytest.fixture(scope="session")
def bubblewrap() -> Sandbox:
    return opened("bubblewrap")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: root's sandbox runs under another id.

    Not one of pytest's, for every session that starts closes those to others again.
    """
    with tempfile.TemporaryDirectory(prefix="perilune-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name).resolve()


@pytest.fixture
def outside() -> Iterator[Path]:
    """The folder that holds the workspace."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def workspace(outside: Path) -> Path:
    folder = outside / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def python(sandbox: Sandbox, workspace: Path) -> Callable[..., SandboxResult]:
    """Run a Python program in the sandbox."""

    def run(source: str, **options: object) -> SandboxResult:
        argv = [sandbox.python.executable, "-I", "-S", "-c", source]
        return sandbox.run(argv, workspace=workspace, **options)  # type: ignore[arg-type]

    return run
