"""The commands around the stages: all of them in a row, the plot, the export, the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perilune.chat.tokenizer import Tokenizer
from perilune.cli.train import app
from perilune.errors import UsageError
from perilune.train.config import read_run_config
from perilune.train.plot import plot_run
from tests.train.test_loop import write_config


def test_all_stages_plot_and_export(tmp_path: Path) -> None:
    file = str(write_config(tmp_path, 3, every=60.0))
    runner = CliRunner()
    with pytest.raises(UsageError, match="no metrics yet"):
        plot_run(read_run_config(file))
    done = runner.invoke(app, ["all", "--config", file, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    steps = [json.loads(line)["step"] for line in done.stdout.splitlines()]
    assert steps == [1, 2, 3, 1, 2, 3, 4, 5]  # pretrain, then qat
    again = runner.invoke(app, ["all", "--config", file], catch_exceptions=False)
    assert again.exit_code == 0 and not again.stdout  # nothing is left to do
    drawn = runner.invoke(app, ["plot", "--config", file], catch_exceptions=False)
    png, svg = (Path(line) for line in drawn.stdout.splitlines())
    assert png.read_bytes().startswith(b"\x89PNG") and b"<svg" in svg.read_bytes()[:2000]
    out = tmp_path / "out"
    arguments = ["export", "--config", file, "--to", str(out)]
    runner.invoke(app, arguments, catch_exceptions=False)
    assert (out / "config.json").is_file() and (out / "generation_config.json").is_file()


def test_a_vocabulary_of_text_files(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"word{i} abcdef ghijkl mnopqr 12{i}\n" for i in range(40)))
    out = tmp_path / "tok"
    arguments = ["tokenizer", "--out", str(out), "--vocabulary", "520", str(text)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    tokenizer = Tokenizer.from_pretrained(out)
    assert tokenizer.vocab_size == 520
    assert len(tokenizer.encode(" 1234")) == 5  # each digit a token
