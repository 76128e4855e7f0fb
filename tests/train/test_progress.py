from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from perilune.train.progress import ProgressView

STEP: dict[str, Any] = {
    "step": 3, "tokens": 1_500_000, "elapsed": 60.0, "tokens_per_second": 4321.0, "sources": {},
}  # fmt: skip
TRAINED: dict[str, Any] = STEP | {
    "loss": 1.25, "accuracy": 0.5, "max_violation": [0.25, 0.5], "update_rms_min": 0.19,
    "update_rms_max": 0.21, "lr": 1e-3, "grad_norm": 0.3, "dead_experts": 0, "clipped_heads": 2,
    "sources": {"copy": {"loss": 1.25, "accuracy": 0.5, "exact": 0.125}},
    "eval": {"copy": {"loss": 1.5, "accuracy": 0.4, "exact": 0.0625}},
}  # fmt: skip


def test_lines_say_where_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView("pretrain", 9, every=0.0) as view:
        view(TRAINED)
        view(STEP | {"reward": 0.75, "solved": 0.5})  # a step of RL that had nothing to learn
    trained, held_out, rewarded = capsys.readouterr().err.splitlines()
    for part in ("step 3/9", "1.50M tokens", "loss 1.2500", "MaxVio 0.50", "rms 0.190..0.210"):
        assert part in trained
    assert "2 min left" in trained
    assert "held out copy" in held_out and "documents 6.2%" in held_out
    assert "reward 0.750" in rewarded and "loss" not in rewarded


def test_the_table_has_a_row_a_source() -> None:
    view = ProgressView("sft", 9)
    view._eval = TRAINED["eval"]
    console = Console(width=100, record=True)
    console.print(view._table(TRAINED))
    assert "copy" in console.export_text()
