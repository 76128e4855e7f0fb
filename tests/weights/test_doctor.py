from __future__ import annotations

import pytest
import torch

from perilune.kernels import quantization
from perilune.weights.doctor import doctor_checks


def test_all_is_well_here() -> None:
    assert [(c.name, c.ok) for c in doctor_checks()] == [
        ("format fp8", True),
        ("format int4", True),
        ("format int8", True),
    ]


def test_a_torch_that_reads_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> torch.Tensor:
        raise RuntimeError("no kernel for float8")

    monkeypatch.setattr(quantization, "dequantize_fp8_block", broken)
    monkeypatch.setattr(quantization, "dequantize_int4", lambda *a: torch.zeros(1, 8))
    fp8, int4, int8 = doctor_checks()
    assert not fp8.ok and "no kernel for float8" in fp8.detail and fp8.remedy
    assert int8.ok
    assert not int4.ok and "other values" in int4.detail and int4.remedy
