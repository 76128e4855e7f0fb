"""The command as a process: interrupts, pipes, encodings, wrong usage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from perilune.cli.models import new


def start(*arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "perilune", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "k2"
    new(folder)
    return folder


@pytest.fixture(scope="module")
def monotonous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose logits are all 0, so that its greedy text is token 0 for ever."""
    folder = tmp_path_factory.mktemp("monotonous") / "k2"
    new(folder)
    (folder / "perilune-manifest.json").unlink()
    changed = 0
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in [name for name in tensors if name.endswith("lm_head.weight")]:
            tensors[name] = torch.zeros_like(tensors[name])
            changed += 1
        save_file(tensors, file)
    assert changed == 1
    return folder


def endless(model: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A generation without an end, with its first characters read."""
    process = start("generate", "--model", model, "--prompt", "x", "--max-tokens", 100_000, env=env)
    assert process.stdout is not None and process.stdout.read(8)
    return process


def test_an_interrupt_says_so_and_exits_with_130(monotonous: Path) -> None:
    process = endless(monotonous)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith(b"\n"), "the line that was open is ended"
    assert err.decode().splitlines() == ["perilune: interrupted"]


def test_a_reader_that_goes_away_is_no_failure(monotonous: Path) -> None:
    process = endless(monotonous)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


def test_a_reader_that_never_was(model: Path) -> None:
    process = start("models", "show", model, "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


def test_a_terminal_of_another_encoding_shows_what_it_can(model: Path) -> None:
    process = start(
        "generate", "--model", model, "--message", "\N{FULL MOON SYMBOL}", "--seed", 1,
        "--max-tokens", 40, env={"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert b"?" in out and out.isascii()


def test_warnings_are_for_the_user(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "k2")
    (folder / "modeling.py").write_text("raise SystemExit(3)")
    process = start("generate", "--model", folder, "--prompt", "x", "--max-tokens", 1, "--json")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.decode() == (
        "perilune: modeling.py: Python beside the weights; it is never imported\n"
    )


@pytest.mark.parametrize("arguments", [["fly"], ["models", "show"], ["convert", "a", "b"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"Usage" in err and b"Traceback" not in err
