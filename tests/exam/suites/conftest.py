"""What the tests of all suites share: models on tapes, and a sandbox."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.scripted import Reply, ScriptedModel
from perilune.errors import SandboxError
from perilune.sandbox import Sandbox, open_sandbox

Says = Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]]], Reply]


def model(says: Says) -> ScriptedModel:
    """A model that looks at the conversation."""
    return ScriptedModel(says, name="examinee")


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    try:
        return open_sandbox()
    except SandboxError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the sandbox must work in CI: {error}")
        pytest.skip(str(error))


def sandbox_has(sandbox: Sandbox, module: str) -> bool:
    """Whether Python in the sandbox has a module: a virtual environment may borrow packages."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sandbox.python.executable, "-c", f"import {module}"]
        return sandbox.run(command, workspace=Path(folder)).ok
