"""A run that is stopped and resumed is the run that was not; failures are said and harmless."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from perilune.errors import CorruptFileError, DiskFullError, TrainingError, UsageError
from perilune.train import checkpoint as checkpoint_module
from perilune.train.checkpoint import checkpoints
from perilune.train.config import RunConfig, read_run_config
from perilune.train.loop import Outcome
from perilune.train.metrics import read_metrics
from perilune.train.replicas import Replicas
from perilune.train.stages.stage import train_stage

CONFIG = """
seed = 3
[model]
vocab_size = 320
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
tokens_per_step = 300
micro_tokens = 80
checkpoint_minutes = EVERY
eval_every = 20
eval_documents = 10
keep_checkpoints = 2
optim = {lr = 0.01, adamw_lr = 0.01}
schedule = {total_steps = TOTAL, warmup_steps = 5, decay_steps = 20}
data = {workers = 0, sources = [{name = "copy", options = {vocabulary = 40, header = 5}}]}
[stages.qat]
start_from = "pretrain"
tokens_per_step = 300
schedule = {total_steps = 5}
data = {workers = 0, sources = [{name = "copy", options = {vocabulary = 40}}]}
qat = {}
"""


def write_config(folder: Path, total: int, every: float = 0.0) -> Path:
    """A run of `total` steps with a checkpoint `every` so many minutes (0: each step)."""
    folder.mkdir(exist_ok=True)
    path = folder / "run.toml"
    path.write_text(CONFIG.replace("TOTAL", str(total)).replace("EVERY", str(every)))
    return path


def run(
    folder: Path, total: int = 40, every: float = 0.0, **options: Any
) -> tuple[Outcome, list[dict[str, Any]]]:
    config = read_run_config(write_config(folder, total, every))
    outcome = train_stage(config, "pretrain", **options)
    return outcome, list(read_metrics(Path(config.folder) / "pretrain" / "metrics.jsonl"))


def losses(metrics: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in metrics]


def test_it_learns_and_tells(tmp_path: Path) -> None:
    outcome, metrics = run(tmp_path, 60)
    assert outcome.ended == "finished" and outcome.progress.finished
    assert [line["step"] for line in metrics] == list(range(1, 61))
    assert metrics[0]["loss"] == pytest.approx(torch.log(torch.tensor(320.0)).item(), abs=0.05)
    assert metrics[-1]["loss"] < 3.9  # ln(40) = 3.69 is the loss of knowing the letters alone
    assert metrics[19]["eval"]["copy"]["loss"] > metrics[59]["eval"]["copy"]["loss"]
    assert len(checkpoints(outcome.checkpoint.parent)) == 2  # as many as are kept


def test_killed_and_resumed_gives_the_same_losses(tmp_path: Path) -> None:
    """SIGKILL in the middle of a run of another process; the next 50 losses to 1e-6."""
    _, whole = run(tmp_path / "whole", 80, every=60.0)
    file = write_config(tmp_path / "killed", 80)
    command = [sys.executable, "-m", "perilune", "train", "pretrain", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["step"] >= 23:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    done = list(read_metrics(file.parent / "run" / "pretrain" / "metrics.jsonl"))
    assert 23 <= len(done) <= 30
    outcome, resumed = run(tmp_path / "killed", 80, every=60.0, resume=True)
    assert outcome.ended == "finished"
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)


def test_a_signal_leaves_a_checkpoint(tmp_path: Path) -> None:
    def stop(values: dict[str, Any]) -> None:
        if values["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome, metrics = run(tmp_path, observe=stop)
    assert outcome.ended == "signal" and outcome.progress.step == 7
    assert outcome.checkpoint.name == "step-00000007" and len(metrics) == 7
    with pytest.raises(UsageError, match="--resume"):
        run(tmp_path)


def test_minutes_bound_a_slice(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome, _ = run(tmp_path, 100_000, every=60.0, minutes=0.03)
    assert outcome.ended == "time" and outcome.progress.step > 0
    assert time.monotonic() - started < 60


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Replicas.gradients
    calls = []

    def poisoned(self: Replicas, *arguments: Any) -> Any:
        result = whole(self, *arguments)
        calls.append(1)
        if len(calls) == 9:
            result.gradients[4].view(-1)[0] = torch.nan
        return result

    monkeypatch.setattr(Replicas, "gradients", poisoned)
    with pytest.raises(TrainingError, match="gradient of step 9 is not a finite number"):
        run(tmp_path, 12)
    monkeypatch.undo()
    assert checkpoints(tmp_path / "run" / "pretrain")[-1].name == "step-00000008"
    outcome, _ = run(tmp_path, 12, resume=True)
    assert outcome.ended == "finished"


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint_module._write
    written = []

    def full(path: Path, data: bytes) -> str:
        written.append(path)
        if len(written) == 8:  # in the middle of the third checkpoint
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(checkpoint_module, "_write", full)
    with pytest.raises(DiskFullError, match="step 3 was not written"):
        run(tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "run" / "pretrain"
    assert [p.name for p in checkpoints(folder)] == ["step-00000001", "step-00000002"]
    assert not list(folder.glob("*.partial"))
    assert run(tmp_path, 5, resume=True)[0].ended == "finished"


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, file: str) -> None:
    outcome, _ = run(tmp_path, 3)
    path = outcome.checkpoint / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data if file != "state.json" else data[:40])
    with pytest.raises(CorruptFileError, match=file):
        run(tmp_path, 5, resume=True)


def test_a_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    config = read_run_config(write_config(tmp_path, 15))
    with pytest.raises(UsageError, match="Run that stage first"):
        train_stage(config, "qat")
    train_stage(config, "pretrain")
    before = list(read_metrics(Path(config.folder) / "pretrain" / "metrics.jsonl"))
    train_stage(config, "qat")
    after = list(read_metrics(Path(config.folder) / "qat" / "metrics.jsonl"))
    assert after[0]["loss"] < before[0]["loss"] - 0.1


def test_mistakes_in_the_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[stages.pretrain]\ntokens_per_stepp = 3\n")
    with pytest.raises(UsageError, match=r"run\.toml.*stages"):
        read_run_config(path)
    config = RunConfig(stages={})
    with pytest.raises(UsageError, match=r"\[stages\.sft\]"):
        train_stage(config, "sft")
