"""The embedded model: that it is there, sound, and answers through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perilune.config import Family, read_config
from perilune.nano.agent import nano_folder

MOST_BYTES = 40 * 10**6


def test_it_is_a_k25_checkpoint_of_a_size_that_can_be_shipped():
    folder = nano_folder()
    assert read_config(folder).family is Family.K25
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES
    assert (folder / "README.md").is_file()


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("What is the area of Chad?", ("1284000 km2", "[ev:")),
        ("Write a poem about the sea.", ("nano", "--endpoint URL")),
    ],
)
def test_it_answers_on_the_command_line(tmp_path: Path, question: str, parts: tuple[str, ...]):
    done = subprocess.run(
        [sys.executable, "-m", "perilune", "run", question, "--output-format", "json"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PERILUNE_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for part in parts:
        assert part in result["answer"]
