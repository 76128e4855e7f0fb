"""Measuring this machine: what is free, what a drive reads, what the engine reaches here."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.kernels import native
from perilune.plan import this_machine as module
from perilune.plan.calibration import (
    Calibration,
    calibrate,
    narrow,
    narrow_config,
    wide_config,
)
from perilune.plan.machine import Kind
from perilune.plan.model_size import named_model
from perilune.plan.placement import Demand
from perilune.plan.planner import Request, plan
from perilune.plan.this_machine import calibrated, disk_rate, this_machine
from perilune.runner.select import choose_runner

MADE_UP = Calibration(
    bandwidth=5e10,
    cached_bandwidth=2e11,
    share=0.9,
    fixed=1e-4,
    fixed_layer=1e-5,
    operations=5e11,
)


def test_a_drive_is_read_past_the_cache_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    monkeypatch.setattr(module, "PROBE", 16 << 20)
    rate = disk_rate(tmp_path)
    assert rate is None or rate > 1e5
    assert list(tmp_path.iterdir()) == []  # the probe is gone
    assert disk_rate(tmp_path / "absent") is None


def test_a_large_file_of_the_folder_is_read_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE", 16 << 20)
    (tmp_path / "model.safetensors").write_bytes(bytes(16 << 20))
    with module._probe(tmp_path) as file:
        assert file.name == "model.safetensors"


def test_this_machine_plans_nano(tmp_path: Path) -> None:
    here = calibrated(this_machine(tmp_path, disk=False), MADE_UP)
    memory = here.tier(Kind.RAM)
    assert memory is not None and memory.memory > 1e8 and memory.usable == 1
    assert memory.bandwidth.value == MADE_UP.bandwidth
    found = plan(named_model("nano"), here, Request(Demand(512)), MADE_UP.efficiency())
    assert found.fits and found.decode is not None and found.prefill is not None
    seconds = found.step.seconds.value if found.step else 0
    assert seconds > MADE_UP.fixed + 6 * MADE_UP.fixed_layer


def test_a_small_model_is_read_from_the_caches() -> None:
    assert MADE_UP.for_bytes(named_model("nano")).bandwidth == 2e11
    assert MADE_UP.for_bytes(named_model("k2-thinking")).bandwidth == 5e10


def test_the_models_of_the_calibration_are_the_engines_kind() -> None:
    """Within what the C kernels take, of two depths, and one beyond every cache."""
    assert narrow_config(10).num_hidden_layers - narrow_config(2).num_hidden_layers == 8
    if native.available():
        assert choose_runner(narrow(2))[0].native
    active = 3 * wide_config().hidden_size * wide_config().moe_intermediate_size
    assert active * wide_config().num_experts_per_tok * 4.5 / 8 * 2 > 50e6


@pytest.mark.slow
def test_a_calibration_measures_something() -> None:
    found = calibrate()
    assert found.bandwidth > 1e7 and found.cached_bandwidth >= found.bandwidth
    assert 0.05 <= found.share <= 1.2 and found.fixed >= 0 and found.fixed_layer >= 0
    assert found.operations > 1e7
