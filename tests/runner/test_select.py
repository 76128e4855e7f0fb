"""The one place that chooses a runner, and what `doctor` says of it."""

from __future__ import annotations

import pytest
import torch

from perilune.config import CheckpointConfig, Family
from perilune.errors import UsageError
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.kernels import native
from perilune.model.model import KimiK2Model
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.doctor import TINY, doctor_checks
from perilune.runner.select import select_runner
from perilune.runner.torch_runner import TorchRunner
from perilune.weights.stored import apply_format
from tests.kernels.conftest import needs_library


def tiny(storage: StorageFormat = BF16) -> KimiK2Model:
    model = KimiK2Model(TINY).to(torch.bfloat16).requires_grad_(False)
    apply_format(model, CheckpointConfig(TINY, Family.K2, storage))
    return model


@needs_library
@pytest.mark.parametrize("storage", FORMATS.values())
def test_the_c_kernels_where_they_can_torch_where_it_is_asked_for(storage: StorageFormat) -> None:
    assert isinstance(select_runner(tiny(storage)), CpuRunner)
    assert isinstance(select_runner(tiny(storage), native=False), TorchRunner)


def test_without_the_library_torch_computes_or_the_cause_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    assert isinstance(select_runner(tiny()), TorchRunner)
    with pytest.raises(UsageError, match="library is not available"):
        select_runner(tiny(), native=True)
    with pytest.raises(UsageError, match="dense_format needs the C kernels"):
        select_runner(tiny(), dense_format="int8")
    assert {check.detail for check in doctor_checks()} == {"torch: the C library is not available"}


@needs_library
def test_doctor_has_a_line_for_every_storage_format() -> None:
    checks = list(doctor_checks())
    assert [check.name for check in checks] == [
        f"runs {storage.name}" for storage in FORMATS.values()
    ]
    assert all(check.ok and native.isa() in check.detail for check in checks)
