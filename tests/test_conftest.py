"""The last lines of a test run, and what decides hypothesis's examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SUITE = """
import pytest
from hypothesis import given, strategies as st

@pytest.mark.parametrize("n", range(3))
def test_skips(n):
    pytest.skip("needs the moon, which is not on this machine")

@pytest.mark.skipif(True, reason="only by day")
def test_skips_too(): pass

def test_passes(): pass

@given(st.integers(0, 2**60))
def test_draws(drawn):
    with open("drawn.txt", "a") as file:
        file.write(f"{drawn}\\n")
"""


def _run(folder: Path, *options: str, ci: str = "") -> tuple[list[str], str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text("utf-8"))
    (folder / "test_it.py").write_text(SUITE)
    (folder / "drawn.txt").unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"CI": ci}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
        *options,
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines(), (folder / "drawn.txt").read_text()


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_skips_are_said_by_reason_and_the_runners_line_is_last(tmp_path: Path, options) -> None:
    lines, _ = _run(tmp_path, *options)
    assert re.match(r"2 passed, 4 skipped in ", lines[-1])
    assert lines[-4:-1] == [
        "4 skipped:",
        "  3 x needs the moon, which is not on this machine",
        "  1 x only by day",
    ]
    assert re.fullmatch(r"hypothesis: --hypothesis-seed=\d+", lines[-5])
    assert not any(line.startswith("SKIPPED") for line in lines)


def test_in_ci_the_usual_suite_draws_the_same_every_time(tmp_path: Path) -> None:
    usual = ("-m", "not slow", "-W", "ignore")
    lines, first = _run(tmp_path, *usual, ci="true")
    assert "hypothesis: the same examples every time" in lines
    assert _run(tmp_path, *usual, ci="true")[1] == first
    assert _run(tmp_path, *usual, "--hypothesis-seed=7", ci="true")[1] != first


def test_the_long_suite_draws_at_random_and_says_the_seed(tmp_path: Path) -> None:
    lines, first = _run(tmp_path, ci="true")
    seed = next(line for line in lines if line.startswith("hypothesis: ")).split()[1]
    assert _run(tmp_path, seed, ci="true")[1] == first
