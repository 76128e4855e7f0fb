"""The whole stage: a choice is learnt, sub-agents stay as they were, a resume changes nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perilune.cli.train import app
from perilune.errors import UsageError
from perilune.train.config import read_run_config
from perilune.train.metrics import read_metrics
from perilune.train.parl import tasks
from perilune.train.plot import plot_run
from perilune.train.stages.stage import train_stage

CONFIG = """
seed = 1
replicas = 1
[model]
vocab_size = 264
hidden_size = 32
num_hidden_layers = 2
intermediate_size = 64
moe_intermediate_size = 32
n_routed_experts = 4
num_experts_per_tok = 2
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 8
[stages.pretrain]
tokens_per_step = 100
schedule = {total_steps = 1}
data = {workers = 0, sources = [{name = "copy", options = {vocabulary = 4}}]}
[stages.parl]
start_from = "pretrain"
optim = {lr = 0.01, adamw_lr = 0.02}
schedule = {total_steps = STEPS, warmup_steps = 0}
balance = {bias_rates = [[0.0, 0.0]]}
data = {workers = 0, sources = [{name = "copy", options = {vocabulary = 4}}]}
[stages.parl.parl]
tasks = "choice"
widths = [1, 8]
deep = []
groups_per_step = 2
samples = 8
ptx_weight = PTX
ptx_tokens = 64
EXTRA
"""


@pytest.fixture(autouse=True)
def choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.SWARM_TASKS, "choice", ("tests.train.parl.shared", "ChoiceTasks"))


def write(folder: Path, steps: int, *, ptx: float = 0.0, extra: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "run.toml"
    text = CONFIG.replace("STEPS", str(steps)).replace("PTX", str(ptx)).replace("EXTRA", extra)
    file.write_text(text)
    return file


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_metrics(folder / "run" / "parl" / "metrics.jsonl"))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers by their path, but for those that the clock makes."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            numbers |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            numbers |= flat({str(i): each for i, each in enumerate(value)}, f"{prefix}{name}.")
        elif isinstance(value, int | float) and "second" not in name and name != "elapsed":
            numbers[prefix + name] = float(value)
    return numbers


def test_when_to_split_is_learnt(tmp_path: Path) -> None:
    file = write(tmp_path, 20, extra="reward = {speed = 1.0, cost = 0.05}")
    config = read_run_config(file)
    train_stage(config, "pretrain")
    worker = tmp_path / "run" / "parl" / "worker"
    frozen: dict[str, bytes] = {}

    def observe(values: dict[str, Any]) -> None:
        if not frozen:
            frozen.update({each.name: each.read_bytes() for each in worker.iterdir()})

    train_stage(config, "parl", observe=observe)
    told = metrics_of(tmp_path)

    def mean(part: list[dict[str, Any]], width: str, name: str) -> float:
        return sum(each["parl"][width][name] for each in part) / len(part)

    first, last = told[:2], told[-4:]
    assert 1 < mean(first, "8", "spawned") < 7  # it began undecided
    assert mean(last, "8", "spawned") > 7 and mean(last, "8", "performance") > 0.9
    assert mean(last, "1", "spawned") < 0.15  # and does not split what has no parts
    assert mean(last, "8", "cut_off") < 0.1 < mean(first, "8", "cut_off")
    assert mean(last, "8", "speed_up") > 2
    assert told[0]["shaping"] == 1.0 and told[-1]["shaping"] == 0.0
    assert all(each.get("largest_log_ratio", 0.0) < 1e-3 for each in told)
    # Groups that agree teach nothing: they are counted, and nothing is learnt from them.
    assert sum(each["groups_without_difference"] for each in told) > 0
    idle = [each for each in told if each["groups_without_difference"] == 2]
    assert all("loss" not in each for each in idle)
    # The sub-agents' weights are those of the beginning, to the byte.
    assert frozen["config.json"]
    assert {each.name: each.read_bytes() for each in worker.iterdir()} == frozen


def test_a_resumed_stage_is_the_one_that_was_not_stopped(tmp_path: Path) -> None:
    def stop(values: dict[str, Any]) -> None:
        if values["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        config = read_run_config(write(folder, 4, ptx=0.1))
        train_stage(config, "pretrain")
        if folder is parts:
            assert train_stage(config, "parl", observe=stop).ended == "signal"
        train_stage(config, "parl", resume=folder is parts)
    expected, resumed = metrics_of(whole), metrics_of(parts)
    assert len(expected) == len(resumed) == 4
    for one, other in zip(expected, resumed, strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-6)


def test_commands_plot_and_all(tmp_path: Path) -> None:
    file = str(write(tmp_path, 2, ptx=0.1))
    runner = CliRunner()
    done = runner.invoke(app, ["all", "--config", file, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["step"] for each in lines] == [1, 1, 2]
    assert {"1", "8", "all"} <= lines[-1]["parl"].keys()
    again = runner.invoke(app, ["parl", "--config", file])
    assert isinstance(again.exception, UsageError)  # a run is there; --resume goes on
    png, _ = plot_run(read_run_config(file))
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "extra, cause",
    [
        ('worker = "nowhere"', "not a checkpoint folder"),
        ('performance = "nearly"', "performance"),
        ("reward = {speeed = 1.0}", "speeed"),
        ("[stages.parl.rl]\nenvironment = 'copy'", "has .rl. and .parl."),
    ],
)
def test_bad_stages_are_named(tmp_path: Path, extra: str, cause: str) -> None:
    file = write(tmp_path, 1, extra=extra)
    with pytest.raises(UsageError, match=cause):
        config = read_run_config(file)
        train_stage(config, "pretrain")
        train_stage(config, "parl")
