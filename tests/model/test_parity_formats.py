"""Through the disk: a checkpoint in each storage format, loaded, against transformers.

transformers gets the weights from the same files, read with the safetensors package and
dequantised here, by code that follows the published layouts and shares nothing with ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from perilune.config import CheckpointConfig, Family, read_config
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8, Fp8Format
from perilune.formats.int4 import INT4
from perilune.model import KimiK2Model, generate
from perilune.weights.load import load_model
from perilune.weights.published_config import config_json
from perilune.weights.random_weights import RandomWeights
from perilune.weights.stored import StoredExperts, StoredLinear
from perilune.weights.tensor_table import expected_tensors
from perilune.weights.write import write_checkpoint
from tests.model.random_models import random_config, random_ids, transformers_model
from tests.model.test_parity import BOUND, relative_difference

FP8_BLOCK = (32, 48)  # neither divides the tiny matrices: ragged edges on both sides
CASES = [
    (Family.K2, BF16),
    (Family.K2, FP8),
    (Family.K2_THINKING, INT4),
    (Family.K25, INT4),
    (Family.K25, BF16),
]


def write(folder: Path, family: Family, storage: StorageFormat, seed: int) -> Path:
    text = random_config(
        seed, hidden_size=96, moe_intermediate_size=64, n_shared_experts=1, vocab_size=520
    )
    prefix = "language_model." if family is Family.K25 else ""
    storage = Fp8Format(FP8_BLOCK) if storage is FP8 else storage
    config = CheckpointConfig(text, family, storage, tensor_prefix=prefix)
    return write_checkpoint(
        folder, config_json(config), expected_tensors(config), RandomWeights(seed, config),
        identity=f"test {seed}", shard_bytes=300_000,
    )  # fmt: skip


def dequantised(folder: Path) -> dict[str, Tensor]:
    """Every weight of the files as float32, by the names of a plain checkpoint."""
    raw: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw |= {k.removeprefix("language_model."): v for k, v in load_file(file).items()}
    weights: dict[str, Tensor] = {}
    for name, tensor in raw.items():
        if name.endswith(".weight_packed"):
            stem = name.removesuffix("_packed")
            weights[stem] = int4(tensor, raw[f"{stem}_scale"], raw[f"{stem}_shape"])
        elif f"{name}_scale_inv" in raw:
            weights[name] = fp8(tensor, raw[f"{name}_scale_inv"])
        elif not name.endswith(("_scale", "_shape", "_scale_inv")):
            weights[name] = tensor.float()
    return weights


def int4(packed: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    rows, columns = shape.tolist()
    words = packed.numpy().astype(np.uint32)
    nibbles = np.stack([(words >> (4 * j)) & 15 for j in range(8)], axis=-1).reshape(rows, -1)
    values = nibbles[:, :columns].astype(np.float32) - 8
    return torch.from_numpy(values * np.repeat(scale.float().numpy(), 32, axis=1))


def fp8(weight: Tensor, scale_inv: Tensor) -> Tensor:
    result = weight.float()
    for (i, j), factor in np.ndenumerate(scale_inv.numpy()):
        rows = slice(i * FP8_BLOCK[0], (i + 1) * FP8_BLOCK[0])
        columns = slice(j * FP8_BLOCK[1], (j + 1) * FP8_BLOCK[1])
        result[rows, columns] *= float(factor)
    return result


@pytest.mark.parametrize("seed", [1, 6, 7])
@pytest.mark.parametrize(("family", "storage"), CASES)
def test_logits_and_tokens(
    family: Family, storage: StorageFormat, seed: int, tmp_path: Path
) -> None:
    folder = write(tmp_path / "checkpoint", family, storage, seed)
    assert len(list(folder.glob("*.safetensors"))) > 1
    model = load_model(folder, dtype=torch.float32)
    reference = transformers_model(read_config(folder).text, dequantised(folder))
    ids = random_ids(model.config, 1, 24, seed=seed)
    with torch.inference_mode():
        theirs = reference(ids).logits
        forms = [model(ids, absorbed=absorbed) for absorbed in (False, True)]
    for ours in forms:
        difference = relative_difference(ours, theirs)
        print(f"difference {difference:.2e} of the logit scale, {family} {storage} {seed=}")
        assert difference <= BOUND
    tokens = reference.generate(
        ids, do_sample=False, max_new_tokens=64, attention_mask=torch.ones_like(ids)
    )
    assert generate(model, ids[0].tolist(), max_tokens=64).token_ids == tokens[0, 24:].tolist()


@pytest.mark.parametrize(("family", "storage"), CASES[:3])
def test_weights_stay_in_their_format(
    family: Family, storage: StorageFormat, tmp_path: Path
) -> None:
    model = load_model(write(tmp_path / "checkpoint", family, storage, 1))
    experts: Any = model.model.layers[-1].mlp.experts
    attention: Any = model.model.layers[0].self_attn
    assert isinstance(model, KimiK2Model)
    held = experts.storage.name if isinstance(experts, StoredExperts) else "bf16"
    assert held == storage.name
    assert isinstance(attention.o_proj, StoredLinear) == (storage is FP8)
    assert model.lm_head.weight.dtype == torch.bfloat16
