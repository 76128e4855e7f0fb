"""A format that only this file knows: registering it is all that reader, writer, converter,
verifier, command line, engine and training need.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import perilune
from perilune.cli import convert as convert_command
from perilune.cli import models
from perilune.config import read_config
from perilune.formats import FORMATS, Part, Role, StorageFormat, TensorLayout, register
from perilune.formats.bf16 import BF16
from perilune.formats.format import NativeWeights
from perilune.model.slots import named_slots
from perilune.runner.doctor import doctor_checks
from perilune.runner.select import choose_runner
from perilune.train.export import export_model
from perilune.weights.load import load_model
from perilune.weights.stored import StoredExperts, StoredLinear
from perilune.weights.verify import verify_checkpoint
from tests.weights.small import overwrite, read_all

LARGEST = 57344.0


@dataclass(frozen=True)
class RowsFormat(StorageFormat):
    """float8_e5m2 values and one float32 factor a row, of every projection and every expert."""

    name: ClassVar[str] = "rows"
    published_as: ClassVar[str] = "e5m2 rows"
    random_std: ClassVar[float] = 1.0

    def covers(self, name: str, part: Part) -> bool:
        return name.endswith(("_proj", "_mqa")) or part is Part.LM_HEAD

    def matrix_tensors(self, rows: int, columns: int) -> tuple[TensorLayout, ...]:
        return (
            TensorLayout("weight_values", "F8_E5M2", (rows, columns), Role.VALUES),
            TensorLayout("weight_factor", "F32", (rows, 1), Role.SCALE),
        )

    @property
    def bits(self) -> float:
        return 8.0

    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        factor = weight_OI.float().abs().amax(-1, keepdim=True).clamp_min(1e-30) / LARGEST
        if not bool(factor.isfinite().all()):
            raise ValueError("the weights hold values that are not finite")
        values = (weight_OI.float() / factor).to(torch.float8_e5m2)
        return {"weight_values": values, "weight_factor": factor}

    def dequantize(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return (tensors["weight_values"].float() * tensors["weight_factor"]).to(dtype)

    def random_values(self, raw: Any) -> Tensor:
        values = torch.from_numpy(raw.copy()).view(torch.int8).float() / 74
        return values.to(torch.float8_e5m2)

    def claims(self, raw: Mapping[str, Any]) -> int:
        return 2 if raw.get("quant_method") == "rows" else 0

    def from_config(self, raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
        return self

    def quantization_config(self) -> dict[str, Any] | None:
        return {"quant_method": "rows"}

    def native(self, tensors: Mapping[str, Tensor]) -> NativeWeights | None:
        return None


@pytest.fixture
def rows() -> Iterator[RowsFormat]:
    storage = RowsFormat()
    register(storage)
    yield storage
    del FORMATS[storage.name]


def call(app: Any, *arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_verbs_know_it(rows: RowsFormat, tmp_path: Path) -> None:
    call(models.app, "new", tmp_path / "m", "--format", "rows", "--like", "k2.5", "--layers", 2)
    assert read_config(tmp_path / "m").storage is rows
    shown = json.loads(call(models.app, "show", tmp_path / "m", "--json"))
    stored = sum(t.nbytes for t in read_all(tmp_path / "m").values())
    assert shown["format"] == "rows" and shown["stored"] == stored
    call(models.app, "verify", tmp_path / "m")
    out = call(convert_command.app, tmp_path / "m", tmp_path / "b", "--to", "bf16")
    assert "b: bf16, " in out and verify_checkpoint(tmp_path / "b").findings == []
    call(convert_command.app, tmp_path / "b", tmp_path / "r", "--to", "rows")
    assert verify_checkpoint(tmp_path / "r").findings == []
    refused = CliRunner().invoke(models.app, ["new", str(tmp_path / "x"), "--format", "int5"])
    assert refused.exit_code == 2 and "'int8', 'rows'" in refused.output.replace("\n", " ")


def test_a_scale_that_is_not_finite_is_found(rows: RowsFormat, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    call(models.app, "new", folder, "--format", "rows", "--layers", 1)
    name = "model.layers.0.self_attn.o_proj.weight_factor"
    overwrite(folder, name, b"\x00\x00\xc0\x7f")
    report = verify_checkpoint(folder)
    assert any(finding.tensor == name for finding in report.findings)
    with pytest.raises(perilune.errors.CorruptFileError, match="NaN or infinite"):
        load_model(folder)


def test_the_engine_runs_it_with_torch_and_says_why(rows: RowsFormat, tmp_path: Path) -> None:
    call(models.app, "new", tmp_path / "m", "--format", "rows", "--layers", 2, "--experts", 8)
    model = load_model(tmp_path / "m")
    kinds = {type(part) for part in model.modules() if hasattr(part, "storage")}
    assert kinds == {StoredLinear, StoredExperts}
    assert "rows" in choose_runner(model)[1] or "library" in choose_runner(model)[1]
    lines = {check.name: check.detail for check in doctor_checks()}
    assert lines["runs rows"].startswith("torch: ")
    llm = perilune.LLM(tmp_path / "m", cache_tokens=512)
    (result,) = llm.generate(
        [[30, 31, 32]], perilune.SamplingParams(max_tokens=4, temperature=0), progress=False
    )
    assert len(result.answers[0].token_ids) == 4
    llm.close()


def test_training_exports_to_it(rows: RowsFormat, tmp_path: Path) -> None:
    call(models.app, "new", tmp_path / "m", "--layers", 2, "--experts", 8)
    model = load_model(tmp_path / "m")
    loaded = load_model(export_model(model, tmp_path / "out", storage=rows))
    plain = dict(named_slots(model))
    for name, part in loaded.named_modules():
        if isinstance(part, StoredLinear):
            made = rows.quantize(plain[f"{name}.weight"])
            assert torch.equal(part.dequantize(), rows.dequantize(made, torch.float32))
    assert (
        loaded.model.norm.weight.dtype
        == BF16.dequantize({"weight": plain["model.norm.weight"]}, torch.bfloat16).dtype
    )
