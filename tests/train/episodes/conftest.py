"""A sandbox with pytest in it, and a chat format over the small made-up vocabulary."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from perilune.chat import ChatFormat, Tokenizer
from perilune.cli.new_tokenizer import tokenizer_files
from perilune.config import Family
from perilune.errors import SandboxError
from perilune.sandbox import Sandbox, open_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    try:
        return open_sandbox()
    except SandboxError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the sandbox must work in CI: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def testing_sandbox(sandbox: Sandbox) -> Sandbox:
    """The sandbox, where its Python has pytest: a virtual environment may borrow its packages."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sandbox.python.executable, "-c", "import pytest"]
        seen = sandbox.run(command, workspace=Path(folder))
    if not seen.ok:
        why = f"{sandbox.python.executable} in the sandbox has no pytest"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(f"{why}; PERILUNE_SANDBOX_PYTHON can name one that has")
    return sandbox


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, data in tokenizer_files(2048).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(params=list(Family), ids=str)
def chat_format(request: pytest.FixtureRequest, tokenizer_folder: Path) -> ChatFormat:
    return ChatFormat(Tokenizer.from_pretrained(tokenizer_folder), request.param)


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint with its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    command = [sys.executable, "-m", "perilune", "models", "new", str(folder), "--like", "k2.5"]
    subprocess.run(command, check=True, capture_output=True)
    return folder
