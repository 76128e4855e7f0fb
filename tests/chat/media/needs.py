"""What some tests need beside the package: PyAV, and transformers' processors with torchvision.

On a developer's machine a test without them is skipped with a line; in CI it fails.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
HAS_PYAV = find_spec("av") is not None
needs_pyav = pytest.mark.skipif(
    not HAS_PYAV and not IN_CI, reason="needs PyAV: pip install 'perilune[video]'"
)


def torchvision_folder() -> Path:
    """Where `make test` lays torchvision, beside the environment; skips without it."""
    folder = Path(sys.prefix) / "reference"
    if find_spec("torchvision") is None and not (folder / "torchvision").is_dir():
        if IN_CI:
            pytest.fail(f"torchvision is not in {folder}: `make test` installs it")
        pytest.skip("needs torchvision beside the environment: `make test` installs it")
    return folder
