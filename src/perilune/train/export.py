"""A trained stage as a checkpoint folder in the published layout of Kimi K2.5, text only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from perilune.config import CheckpointConfig, Family
from perilune.errors import UsageError
from perilune.formats import Role, StorageFormat
from perilune.formats.int4 import INT4
from perilune.model.model import KimiK2Model
from perilune.model.slots import named_slots
from perilune.train.checkpoint import last_checkpoint, load_weights
from perilune.train.config import RunConfig
from perilune.weights.published_config import config_json, generation_config_json
from perilune.weights.reader import TORCH_DTYPES, tensor_memory
from perilune.weights.tensor_table import TensorSpec, expected_tensors, is_vision
from perilune.weights.write import write_checkpoint

TOKENIZER_FILES = ("tiktoken.model", "tokenizer_config.json")
PREFIX = "language_model."


def export_stage(
    config: RunConfig,
    name: str,
    folder: Path,
    *,
    storage: StorageFormat = INT4,
    checkpoint: Path | None = None,
    average: Mapping[str, float] | None = None,
) -> Path:
    """Write the newest (or the given) checkpoint of a stage to `folder`, with its tokenizer.

    `storage` says which weights it covers; the rest is bfloat16. `average`: shares of other stages
    in every weight, the rest being this one's: what a stage has forgotten comes back, if the stages
    are of one line (arXiv 2203.05482). Raises UsageError, CheckpointError.
    """
    shares = dict(average or {})
    if name in shares or not all(s > 0 for s in shares.values()) or not sum(shares.values()) < 1:
        raise UsageError(
            f"{name} cannot be averaged with {shares}",
            remedy="Name other stages, each with a share above 0, together below 1",
        )
    model = KimiK2Model(config.model.model_config())
    load_weights(checkpoint or last_checkpoint(config, name), model)
    if shares:
        _average(model, {last_checkpoint(config, other): s for other, s in shares.items()})
    return export_model(model, folder, storage=storage, tokenizer=config.tokenizer)


@torch.no_grad()
def _average(model: KimiK2Model, shares: Mapping[Path, float]) -> None:
    """Each weight becomes the weighted mean of its own and those of the checkpoints."""
    means = dict(named_slots(model))
    for weight in means.values():
        weight.mul_(1 - sum(shares.values()))
    other = KimiK2Model(model.config)
    for checkpoint, share in shares.items():
        load_weights(checkpoint, other)
        for name, weight in named_slots(other):
            means[name].add_(weight * share)


def export_model(
    model: KimiK2Model,
    folder: Path,
    *,
    storage: StorageFormat = INT4,
    tokenizer: str | Path | None = None,
) -> Path:
    """As `export_stage`, of a model in memory. Weights are packed from the values as they are.

    (Through a bfloat16 checkpoint they would be rounded twice, off the grid of INT4 training.)
    """
    config = CheckpointConfig(model.config, Family.K25, storage, tensor_prefix=PREFIX)
    source = None if tokenizer is None else Path(tokenizer)
    generation = json.dumps(generation_config_json(config), indent=2) + "\n"
    extra: dict[str, bytes | Path] = {"generation_config.json": generation.encode()}
    if source is not None:
        extra |= {name: source / name for name in TOKENIZER_FILES if (source / name).is_file()}
    slots = dict(named_slots(model))

    last: tuple[str, dict[str, Tensor]] = ("", {})  # the tensors of a weight come together

    def produce(spec: TensorSpec) -> Iterator[memoryview]:
        nonlocal last
        name = spec.name.removeprefix(PREFIX)
        base, _, suffix = name.rpartition(".")
        if spec.role is Role.PLAIN:
            yield tensor_memory(slots[name].to("cpu", TORCH_DTYPES[spec.dtype]))
            return
        if last[0] != base:
            last = (base, storage.quantize(slots[f"{base}.weight"].cpu()))
        yield tensor_memory(last[1][suffix])

    return write_checkpoint(
        folder,
        config_json(config),
        [spec for spec in expected_tensors(config) if not is_vision(spec.name)],
        produce,
        identity=f"export of {id(model)}",
        extra=extra,
    )
