"""What lies where: the bytes that the engine's plan and `models show` count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perilune.cli.models import show
from perilune.config import CheckpointConfig, Family
from perilune.engine import load
from perilune.engine.load import EngineOptions, load_engine
from perilune.errors import UsageError
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.int4 import INT4
from perilune.model.slots import named_slots
from perilune.runner.placement import Tier, place_checkpoint
from perilune.weights.checkpoint import open_checkpoint, stored_config
from perilune.weights.load import build_model
from perilune.weights.tensor_table import Part, expected_tensors
from tests.engine.models import write_tiny
from tests.runner.models import BASE


@pytest.mark.parametrize("storage", list(FORMATS.values()), ids=list(FORMATS))
def test_the_bytes_are_those_of_the_model_that_is_built(
    storage: StorageFormat, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "m", storage))
    placement = place_checkpoint(checkpoint.config)
    slots = {name: slot.nbytes for name, slot in named_slots(build_model(checkpoint))}
    assert placement.nbytes() == sum(slots.values())
    by_module: dict[str, int] = {}
    for name, nbytes in slots.items():
        module = name.rpartition(".")[0]
        if ".mlp.experts." in name:
            module = module.rpartition(".")[0]
        by_module[module] = by_module.get(module, 0) + nbytes
    assert {place.module: place.nbytes for place in placement} == by_module
    stored = {name: tensor.nbytes for name, tensor in checkpoint.tensors.items()}
    assert place_checkpoint(checkpoint.config, stored).nbytes() == placement.nbytes()


def test_every_expert_has_a_place_of_its_own() -> None:
    config = CheckpointConfig(BASE, Family.K2, INT4)
    placement = place_checkpoint(config, device="cuda:1")
    experts = [place for place in placement if place.part is Part.ROUTED_EXPERTS]
    assert [(place.layer, place.expert) for place in experts] == [
        (layer, expert) for layer in (1, 2) for expert in range(BASE.n_routed_experts)
    ]
    one = placement.expert(2, 5)
    values = 3 * BASE.hidden_size * BASE.moe_intermediate_size
    assert one.nbytes == values // 2 + values // 32 * 2 + 3 * 8  # nibbles, scales, shapes
    assert one.device == "cuda:1" and one.tier is Tier.MEMORY
    assert placement.nbytes(part=Part.ROUTED_EXPERTS) == 12 * one.nbytes
    assert placement.module("model.layers.1.mlp.gate").layer is None
    for missing in ((0, 0), (1, BASE.n_routed_experts)):
        with pytest.raises(UsageError, match="no module"):
            placement.expert(*missing)


def test_what_is_moved_keeps_its_bytes() -> None:
    placement = place_checkpoint(CheckpointConfig(BASE, Family.K2, BF16))
    split = placement.moved(
        lambda place: (Tier.MEMORY, "cuda:0" if place.expert is None else "cpu")
    )
    assert split.nbytes(device="cpu") == placement.nbytes(part=Part.ROUTED_EXPERTS)
    assert split.nbytes() == placement.nbytes() and len(split) == len(placement)
    assert placement.nbytes(device="cuda:0") == 0  # the first one is as it was


def test_files_may_hold_other_dtypes_than_the_format() -> None:
    config = CheckpointConfig(BASE, Family.K2, BF16)
    norm = "model.norm.weight"
    usual = place_checkpoint(config)
    stored = {spec.name: spec.nbytes for spec in expected_tensors(config)}
    wide = place_checkpoint(config, stored | {norm: 4 * BASE.hidden_size})
    assert wide.nbytes() - usual.nbytes() == 2 * BASE.hidden_size


def test_the_engine_plans_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's weights are the placement's bytes, not those of what is never loaded."""
    folder = write_tiny(tmp_path / "m")
    config = stored_config(folder)
    assert any(spec.part is Part.VISION for spec in expected_tensors(config))
    planned: list[int] = []
    plan = load.plan_memory

    def spy(config: object, weights: int, *rest: object) -> object:
        planned.append(weights)
        return plan(config, weights, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "plan_memory", spy)
    options = EngineOptions(cache_tokens=64, bandwidth=1e9)
    load_engine(folder, options).close()
    load_engine(folder, replace(options, vision=False)).close()
    vision = sum(s.nbytes for s in expected_tensors(config) if s.part is Part.VISION)
    everything = place_checkpoint(config).nbytes()
    assert vision > 0 and planned == [everything, everything - vision]


def test_show_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny(tmp_path / "m", INT4)
    show(folder, as_json=True)
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory == place_checkpoint(stored_config(folder)).nbytes()


def test_a_tied_head_has_no_place_of_its_own() -> None:
    tied = replace(BASE, tie_word_embeddings=True)
    placement = place_checkpoint(CheckpointConfig(tied, Family.K2, BF16))
    assert not [place for place in placement if place.part is Part.LM_HEAD]
