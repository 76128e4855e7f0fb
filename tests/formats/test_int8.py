"""int8 on disk: the bits that the engine makes of bfloat16 at load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import perilune
from perilune.config import CheckpointConfig, Family
from perilune.errors import UsageError
from perilune.formats.int8 import INT8, Int8Format
from perilune.model.model import KimiK2Model
from perilune.runner.cpu.runner import CpuRunner
from perilune.runner.select import select_runner
from perilune.runner.torch_runner import TorchRunner
from perilune.weights.convert import convert
from perilune.weights.load import load_model
from perilune.weights.stored import StoredLinear
from perilune.weights.tensor_table import expected_tensors
from tests.engine.models import write_tiny
from tests.kernels.conftest import needs_library
from tests.runner.models import BASE, random_model, random_prompts, run_alone
from tests.weights.small import same_bits


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("int8")
    plain = write_tiny(folder / "bf16")
    return plain, convert(plain, folder / "int8", INT8)


def test_every_dense_matrix_but_the_transposed_one() -> None:
    config = CheckpointConfig(BASE, Family.K2, INT8)
    stored = {spec.name.rpartition(".")[0] for spec in expected_tensors(config) if spec.matrix}
    assert "lm_head" in stored and "model.layers.0.mlp.up_proj" in stored
    assert "model.layers.1.mlp.shared_experts.down_proj" in stored
    assert "model.layers.2.self_attn.o_proj" in stored
    assert not any("kv_b_proj" in name or ".experts." in name or "embed" in name for name in stored)


@needs_library
def test_the_bits_are_those_of_quantising_at_load(folders: tuple[Path, Path]) -> None:
    plain, stored = map(load_model, folders)
    assert any(isinstance(module, StoredLinear) for module in stored.modules())
    (ids,) = random_prompts(plain.config, [70], seed=1)
    logits = [
        run_alone(CpuRunner(model, dense_format="int8"), model.config, ids, dtype=torch.bfloat16)
        for model in (plain, stored)
    ]
    assert same_bits(*logits)


@needs_library
def test_text_of_the_two_folders_is_the_same(folders: tuple[Path, Path]) -> None:
    params = perilune.SamplingParams(max_tokens=12, temperature=0)
    texts = []
    for folder in folders:
        llm = perilune.LLM(folder, dense_format="int8", cache_tokens=512)
        results = llm.generate([[30, 31, 32], [40, 44, 48, 52]], params, progress=False)
        texts.append([result.answers[0].token_ids for result in results])
        llm.close()
    assert texts[0] == texts[1]


def _tiny() -> KimiK2Model:
    return random_model(BASE, storage=INT8)


@needs_library
def test_exact_arithmetic_is_torchs() -> None:
    assert isinstance(select_runner(_tiny(), exact=True), TorchRunner)
    with pytest.raises(UsageError, match="int8, which the kernels have no exact arithmetic for"):
        select_runner(_tiny(), exact=True, native=True)


def test_another_group_is_computed_by_torch() -> None:
    model = random_model(BASE, storage=Int8Format(16))
    assert isinstance(select_runner(model), TorchRunner)
