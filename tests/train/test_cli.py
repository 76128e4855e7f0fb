"""The commands around the stages: all of them in a row, the plot, the export, the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from perilune.chat.tokenizer import Tokenizer
from perilune.cli.train import app
from perilune.errors import UsageError
from perilune.train.config import read_run_config
from perilune.train.plot import plot_run
from perilune.weights.load import load_model
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
    _check_average(file, tmp_path, runner)


def _check_average(file: str, tmp_path: Path, runner: CliRunner) -> None:
    """`--average` gives the weighted mean of two stages, and refuses what is none."""

    def weights(stage: str, *more: str) -> dict[str, torch.Tensor]:
        out = tmp_path / "-".join((stage, *more)).replace("=", "-")
        arguments = ["export", "--config", file, "--to", str(out), "--stage", stage]
        arguments += ["--storage", "bf16", *(w for each in more for w in ("--average", each))]
        runner.invoke(app, arguments, catch_exceptions=False)
        return dict(load_model(out).named_parameters())

    first, second, mean = weights("pretrain"), weights("qat"), weights("qat", "pretrain=0.25")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, weight in mean.items():
        expected = 0.25 * first[name].float() + 0.75 * second[name].float()
        torch.testing.assert_close(weight.float(), expected, rtol=1e-2, atol=1e-3)
    for wrong in ("pretrain=1", "pretrain=0", "pretrain=nan", "qat=0.5", "pretrain=much"):
        with pytest.raises(UsageError, match=r"qat cannot be averaged|is not STAGE=SHARE"):
            weights("qat", wrong)


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
