"""Small checkpoints for the tests of this folder, and ways to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from perilune import formats
from perilune.config import CheckpointConfig, Family
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.weights.published_config import config_json
from perilune.weights.random_weights import RandomWeights, random_config
from perilune.weights.tensor_table import expected_tensors
from perilune.weights.write import write_checkpoint

INDEX = "model.safetensors.index.json"
FORMATS = tuple(formats.FORMATS.values())


def divisible(storage: StorageFormat) -> dict[str, int]:
    """Sizes of a random text network that divide into the groups of a format."""
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32}
    if storage.covers("gate_proj", formats.Part.DENSE_MLP) and storage.name != "fp8":
        sizes |= {"intermediate_size": 96, "q_lora_rank": 32, "kv_lora_rank": 32, "v_head_dim": 32}
    return sizes


def tiny_config(storage: StorageFormat = BF16, family: Family = Family.K2) -> CheckpointConfig:
    return random_config(family, storage, "tiny", layers=2, experts=4)


def tiny_checkpoint(
    folder: Path,
    storage: StorageFormat = BF16,
    family: Family = Family.K2,
    *,
    seed: int = 0,
    shard_bytes: int = 2**19,
) -> Path:
    """A random checkpoint of two layers in several files."""
    config = tiny_config(storage, family)
    return write_checkpoint(
        folder,
        config_json(config),
        expected_tensors(config),
        RandomWeights(seed, config),
        identity=str(seed),
        shard_bytes=shard_bytes,
    )


def read_all(folder: Path) -> dict[str, Tensor]:
    """Every tensor, by the reference implementation of the file format."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            # Cloned: they would follow a file that a test rewrites.
            tensors |= {n: opened.get_tensor(n).clone() for n in opened.keys()}  # noqa: SIM118
    return tensors


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
    )


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(file.read_text("utf-8"))
    change(value)
    file.write_text(json.dumps(value), "utf-8")


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def edit_header(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header, data = header_of(file)
    change(header)
    write_raw(file, json.dumps(header).encode(), data)


def write_raw(file: Path, header: bytes, data: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)


def shard_with(folder: Path, tensor: str) -> Path:
    index = json.loads((folder / INDEX).read_text("utf-8"))
    return folder / index["weight_map"][tensor]


def overwrite(folder: Path, tensor: str, data: bytes) -> None:
    """Replace the first bytes of a tensor in place."""
    file = shard_with(folder, tensor)
    raw = bytearray(file.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin = 8 + length + json.loads(raw[8 : 8 + length])[tensor]["data_offsets"][0]
    raw[begin : begin + len(data)] = data
    file.write_bytes(raw)
