"""Two processes over gloo, data parallel and sharded (FSDP2), against one: the same run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perilune.train.checkpoint import checkpoints, read_state
from perilune.train.config import read_run_config
from perilune.train.metrics import read_metrics
from perilune.train.stages.stage import train_stage
from tests.train.test_loop import CONFIG

STEPS = 8


def write_config(folder: Path, *, sharded: bool) -> Path:
    folder.mkdir()
    text = CONFIG.replace("TOTAL", str(STEPS)).replace("EVERY", "60.0")
    text = text.replace("seed = 3", f"seed = 3\nreplicas = 1\nsharded = {str(sharded).lower()}", 1)
    text = text.replace("adamw_lr = 0.01}", "adamw_lr = 0.01, qk_clip = 0.5}")
    file = folder / "run.toml"
    file.write_text(text)
    return file


def run_two(file: Path, *arguments: str) -> None:
    """What `torchrun --nproc-per-node 2` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "perilune", "train", "pretrain", "--config", str(file)]
    processes = []
    for rank in range(2):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors[-3000:]


def metrics_of(file: Path) -> list[dict[str, Any]]:
    return list(read_metrics(file.parent / "run" / "pretrain" / "metrics.jsonl"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = write_config(tmp_path_factory.mktemp("runs") / "alone", sharded=False)
    train_stage(read_run_config(file), "pretrain")
    return metrics_of(file)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_are_one(tmp_path: Path, alone: list[dict[str, Any]], sharded: bool) -> None:
    file = write_config(tmp_path / "two", sharded=sharded)
    run_two(file)
    metrics = metrics_of(file)
    assert len(metrics) == STEPS
    for name in ("loss", "balance_loss", "grad_norm", "update_rms_min"):
        got, want = [m[name] for m in metrics], [m[name] for m in alone]
        assert got == pytest.approx(want, abs=2e-4, rel=2e-4), name
    assert [m["clipped_heads"] for m in metrics] == [m["clipped_heads"] for m in alone]
    assert sum(m["clipped_heads"] for m in alone) > 0
    assert [m["tokens"] for m in metrics] == [m["tokens"] for m in alone]
    # What two processes wrote, one reads.
    place = checkpoints(file.parent / "run" / "pretrain")[-1]
    assert read_state(place)["progress"]["step"] == STEPS
    file.write_text(file.read_text().replace(f"total_steps = {STEPS}", "total_steps = 10"))
    outcome = train_stage(read_run_config(file), "pretrain", resume=True)
    assert outcome.progress.step == 10
