"""Random checkpoints: the same everywhere, valid, and lively enough to test with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.weights.small import FORMATS, same_bits, tiny_checkpoint

from perilune.config import Family
from perilune.errors import UsageError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.kernels.quantization import unpack_int4
from perilune.model import generate
from perilune.weights import random_weights
from perilune.weights.load import load_model
from perilune.weights.random_weights import RandomWeights, random_config
from perilune.weights.tensor_table import expected_tensors


def splitmix64(state: int) -> int:
    """One output, from the paper, in plain integers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_random_words_are_splitmix64() -> None:
    count = 2 * random_weights._BLOCK + 5
    words = random_weights._random_words(12345, 7, count)
    for i in (0, 1, random_weights._BLOCK - 1, random_weights._BLOCK, count - 1):
        assert int(words[i]) == splitmix64(12345 + (7 + i) * 0x9E3779B97F4A7C15)


def test_known_bytes() -> None:
    """The same on every machine and for ever: benchmarks of different days are comparable."""
    config = random_config(Family.K2, INT4, "tiny")
    digest = hashlib.sha256()
    for spec in expected_tensors(config):
        for piece in RandomWeights(7, config)(spec):
            digest.update(piece)
    assert digest.hexdigest() == "e52a7f6763051cdc94c9536fa557c09de42791b074c3f9f7479906efa54fdc45"


def test_values_depend_on_seed_and_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config = random_config(Family.K2, INT4, "tiny", layers=3)
    more = random_config(Family.K2, INT4, "tiny", layers=5, experts=32)
    k25 = replace(config, tensor_prefix="language_model.")
    first = {s.name: RandomWeights(1, config).tensor(s) for s in expected_tensors(config)}
    deep = {s.name: s for s in expected_tensors(more)}
    prefixed = {s.name: s for s in expected_tensors(k25)}
    monkeypatch.setattr(random_weights, "PIECE", 4096)  # nor on the size of the pieces
    other = 0
    for name, tensor in first.items():
        if "mlp.gate" not in name:  # the router's size follows the number of experts
            assert same_bits(tensor, RandomWeights(1, more).tensor(deep[name]))
        spec = prefixed[f"language_model.{name}"]
        assert same_bits(tensor, RandomWeights(1, k25).tensor(spec))
        other += not same_bits(tensor, RandomWeights(2, k25).tensor(spec))
    shapes = sum(name.endswith("weight_shape") for name in first)
    assert other == len(first) - shapes


@pytest.mark.parametrize("storage", FORMATS)
def test_statistics(storage: StorageFormat) -> None:
    config = random_config(Family.K2, storage, "slice", layers=2, experts=8)
    weights = RandomWeights(0, config)
    specs = {s.name: s for s in expected_tensors(config)}
    expert = "model.layers.1.mlp.experts.0.down_proj.weight"
    if storage is INT4:
        q = unpack_int4(weights.tensor(specs[f"{expert}_packed"]))
        scale = weights.tensor(specs[f"{expert}_scale"]).float()
        assert q.min() == -7 and q.max() == 7
        value = q.float() * scale.repeat_interleave(32, 1)
    elif storage is FP8:
        value = weights.tensor(specs[expert]).float()
        factors = weights.tensor(specs[f"{expert}_scale_inv"])
        value *= factors.repeat_interleave(128, 0).repeat_interleave(128, 1)
    else:
        value = weights.tensor(specs[expert]).float()
    assert value.isfinite().all()
    assert value.std().item() * 2048**0.5 == pytest.approx(1.0, rel=0.02)
    assert abs(value.mean().item()) * 2048**0.5 < 0.01
    correlation = np.corrcoef(value[:64, :512].numpy())
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 0.3


@pytest.mark.parametrize("storage", FORMATS)
def test_the_model_is_alive(tmp_path: Path, storage: StorageFormat) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "m", storage), dtype=torch.float32)
    logits = model(torch.randint(0, 512, (2, 40), generator=torch.Generator().manual_seed(0)))
    assert logits.isfinite().all() and 2 < logits.std() < 8
    tokens = generate(model, [1, 2, 3], max_tokens=32).token_ids
    assert len(set(tokens)) > 8


def test_slices_have_real_layers() -> None:
    config = random_config(Family.K25, INT4, "slice", layers=3)
    sizes = config.text.hidden_size, config.text.n_routed_experts, config.text.vocab_size
    assert sizes == (7168, 384, 163_840) and config.text.num_hidden_layers == 3
    assert config.vision is not None and config.vision["vt_num_hidden_layers"] == 1


def test_refusals() -> None:
    for wrong in ({"layers": 0}, {"layers": 62}, {"experts": 3}, {"experts": 385}):
        with pytest.raises(UsageError):
            random_config(Family.K2, BF16, "tiny", **wrong)
