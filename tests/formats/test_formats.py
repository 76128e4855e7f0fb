"""What every storage format promises, whichever there are."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.errors import ConfigError, UsageError
from perilune.formats import (
    FORMATS,
    Part,
    Role,
    StorageFormat,
    format_named,
    read_quantization,
    register,
    role_of,
)
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import Fp8Format
from perilune.formats.int4 import Int4Format
from perilune.formats.int8 import Int8Format
from perilune.weights.header import tensor_bytes
from perilune.weights.reader import TORCH_DTYPES

ALL = list(FORMATS.values())
QUANTISED = [each for each in ALL if each is not BF16]


@pytest.mark.parametrize("storage", ALL, ids=str)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 40), groups=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_what_it_makes_is_what_it_says(
    storage: StorageFormat, rows: int, groups: int, seed: int
) -> None:
    columns = groups * storage.some_size[1]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 2.0 ** (seed % 20 - 10)
    layout = storage.matrix_tensors(rows, columns)
    made = storage.quantize(weight)
    assert list(made) == [each.suffix for each in layout] == list(storage.roles)
    for each in layout:
        assert made[each.suffix].dtype == TORCH_DTYPES[each.dtype]
        assert tuple(made[each.suffix].shape) == each.shape
        assert storage.roles[each.suffix] is each.role
    back = storage.dequantize(made, torch.float32)
    step = {"bf16": 2**-8, "fp8": 2**-3, "int8": 1 / 127, "int4": 1 / 7}[storage.name]
    assert (back - weight).abs().max() <= step * weight.abs().max()
    assert torch.equal(storage.dequantize(made, torch.bfloat16), back.to(torch.bfloat16))
    assert made.keys() & {"weight_shape"} == {
        each.suffix for each in layout if each.role is Role.SHAPE
    }


@pytest.mark.parametrize("storage", ALL, ids=str)
def test_the_command_line_and_the_files_know_it_by_the_same_name(storage: StorageFormat) -> None:
    assert format_named(storage.name) is storage and str(storage) == storage.name
    config = storage.quantization_config()
    assert read_quantization(config or {}, None) is storage


@pytest.mark.parametrize("storage", [Fp8Format((16, 24)), Int4Format(64), Int8Format(64)], ids=repr)
def test_other_sizes_are_read_back(storage: StorageFormat) -> None:
    read = read_quantization(storage.quantization_config() or {}, None)
    assert read == storage and read is not FORMATS[storage.name]
    assert storage.no_native() and not FORMATS[storage.name].no_native()


@pytest.mark.parametrize("storage", ALL, ids=str)
def test_bits_are_those_of_a_large_matrix(storage: StorageFormat) -> None:
    rows = columns = 2048
    layout = storage.matrix_tensors(rows, columns)
    stored = sum(tensor_bytes(each.dtype, each.shape) for each in layout)
    assert 8 * stored / (rows * columns) == pytest.approx(storage.bits, rel=1e-3)


@pytest.mark.parametrize("storage", QUANTISED, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(storage: StorageFormat, value: float) -> None:
    weight = torch.ones(storage.some_size)
    weight[3, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        storage.quantize(weight)


@pytest.mark.parametrize("storage", QUANTISED, ids=str)
def test_the_router_the_norms_and_the_embeddings_stay_plain(storage: StorageFormat) -> None:
    assert not any(
        storage.covers(name, part)
        for name in ("gate", "embed_tokens", "norm")
        for part in (Part.ROUTER, Part.NORM, Part.EMBEDDING, Part.VISION)
    )
    assert any(storage.covers("gate_proj", part) for part in Part)


def test_roles_are_told_by_the_names_of_tensors() -> None:
    assert role_of("model.layers.3.mlp.experts.1.up_proj.weight_scale") is Role.SCALE
    assert role_of("model.layers.3.mlp.up_proj.weight_scale_inv") is Role.SCALE
    assert role_of("a.weight_shape") is Role.SHAPE


@pytest.mark.parametrize(
    "raw",
    [
        {"quant_method": "awq"},
        {"quant_method": None},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    ],
)
def test_what_no_format_can_read_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_quantization(raw, None)


def test_int8_with_the_numbers_of_another_layout_is_refused() -> None:
    config = Int8Format().quantization_config() or {}
    config["config_groups"]["group_0"]["weights"]["num_bits"] = 4
    with pytest.raises(ConfigError, match="num_bits"):
        read_quantization(config, None)


def test_names_are_taken_once_and_unknown_ones_are_refused_with_a_list() -> None:
    with pytest.raises(ValueError, match="int8"):
        register(replace(FORMATS["int8"]))
    with pytest.raises(UsageError, match="int5") as error:
        format_named("int5")
    assert "int4" in error.value.remedy and "int8" in error.value.remedy


def test_the_configuration_reads_formats_without_torch() -> None:
    program = "import sys, perilune.config; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
