"""From a folder to an engine: opened once, counted as it is loaded, on the device named."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import perilune
from perilune.cli.generate import app as generate_app
from perilune.config import Family, ModelConfig
from perilune.engine import load as engine_load
from perilune.engine.load import EngineOptions, check_options, load_engine
from perilune.errors import DeviceError, OutOfMemoryError, UsageError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.model.model import KimiK2Model
from perilune.model.slots import named_slots
from perilune.runner.batch import SequenceRows, build_batch
from perilune.runner.cache import PagedLatentCache
from perilune.runner.select import check_runner_options, select_runner
from perilune.runner.torch_runner import PagedContext, TorchRunner
from perilune.serve.build import build_service
from perilune.serve.settings import Settings
from perilune.weights.checkpoint import Checkpoint, open_checkpoint
from perilune.weights.load import build_model, load_model, loaded_tensors
from tests.engine.models import write_tiny
from tests.runner.models import BASE, random_model
from tests.weights.small import FORMATS, tiny_checkpoint

FEW = EngineOptions(cache_tokens=512, max_batch_tokens=64, max_sequences=2, bandwidth=1e9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("load") / "k25")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of a checkpoint was parsed."""
    from perilune import config
    from perilune.weights import checkpoint

    seen: Counter[str] = Counter()
    for module, name in (
        (config, "_read_json"), (checkpoint, "read_header"), (checkpoint, "read_json_object"),
    ):  # fmt: skip
        read = getattr(module, name)

        def counted(file: Path, *rest: Any, read: Any = read) -> Any:
            seen[Path(file).name] += 1
            return read(file, *rest)

        monkeypatch.setattr(module, name, counted)
    return seen


def test_a_load_parses_each_file_once(folder: Path, reads: Counter[str]) -> None:
    load_engine(folder, FEW).close()
    headers = {file.name for file in folder.glob("*.safetensors")}
    assert headers | {"config.json", "model.safetensors.index.json"} <= reads.keys()
    assert set(reads.values()) == {1}, reads


def test_an_open_checkpoint_is_not_opened_again(folder: Path, reads: Counter[str]) -> None:
    checkpoint = open_checkpoint(folder)
    before = reads.copy()
    model = load_model(checkpoint)
    assert reads == before
    again = dict(named_slots(load_model(folder)))
    assert all(torch.equal(tensor, again[name]) for name, tensor in named_slots(model))


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("family", [Family.K2, Family.K25])
@pytest.mark.parametrize("storage", FORMATS, ids=str)
def test_the_count_is_what_the_model_holds(
    tmp_path: Path, storage: StorageFormat, family: Family, dtype: torch.dtype | None
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path / "m", storage, family))
    held = sum(slot.nbytes for _, slot in named_slots(build_model(checkpoint, dtype)))
    assert sum(loaded_tensors(checkpoint, dtype).values()) == held
    if family is Family.K25:
        assert sum(loaded_tensors(checkpoint, dtype, vision=False).values()) < held


def planned(monkeypatch: pytest.MonkeyPatch, folder: Path, options: EngineOptions) -> int:
    """The bytes of weights that the first plan counts; nothing is loaded."""
    seen: list[int] = []

    def stop(config: ModelConfig, weights: int, *rest: object) -> None:
        seen.append(weights)
        raise OutOfMemoryError("seen")

    monkeypatch.setattr(engine_load, "plan_memory", stop)
    with pytest.raises(OutOfMemoryError, match="seen"):
        load_engine(folder, options)
    return seen[0]


def test_the_first_plan_counts_what_is_loaded_and_no_factor_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(folder)
    tower = sum(checkpoint.tensors[name].nbytes for name in checkpoint.vision)
    everything = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert tower > 0 and planned(monkeypatch, folder, FEW) == everything
    assert planned(monkeypatch, folder, replace(FEW, vision=False)) == everything - tower
    # Exact arithmetic in torch widens plain weights, not those that stay as they are stored.
    exact = EngineOptions(exact=True, native=False, vision=False)
    fp8 = write_tiny(tmp_path / "fp8", FP8)
    assert planned(monkeypatch, fp8, exact) == sum(
        loaded_tensors(open_checkpoint(fp8), torch.float32, vision=False).values()
    )
    assert planned(monkeypatch, folder, exact) > 1.9 * (everything - tower)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "moon", "mps:3", "meta", ""])
def test_a_device_that_is_not_there_is_one_error_everywhere(
    folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the folder was opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine_load, "open_checkpoint", refuse)
    monkeypatch.setattr("perilune.weights.load.open_checkpoint", refuse)
    arguments = ["--model", str(folder), "--prompt", "a", "--device", device]
    ways: list[Any] = [
        lambda: perilune.LLM(folder, device=device),
        lambda: load_engine(random_model(BASE), EngineOptions(device=device)),
        lambda: load_model(folder, device=device),
        lambda: build_service(folder, Settings.from_options({"device": device})),
        lambda: _raise(CliRunner().invoke(generate_app, arguments).exception),
        lambda: _raise(CliRunner().invoke(generate_app, [*arguments, "--reference"]).exception),
    ]
    for way in ways:
        with pytest.raises(DeviceError) as error:
            way()
        assert isinstance(error.value, UsageError) and error.value.remedy


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


def test_what_only_the_cpu_can_is_refused_elsewhere() -> None:
    for options in ({"native": True}, {"dense_format": "int8"}):
        with pytest.raises(DeviceError, match="on the CPU, not on cuda"):
            check_runner_options(torch.device("cuda"), **options)  # type: ignore[arg-type]
    check_runner_options(torch.device("cuda"), native=None)
    assert check_options(EngineOptions()) == torch.device("cpu")


def test_weights_and_cache_go_where_the_options_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`meta` stands for a card: nothing can be computed there, but all that is made is seen."""
    card = torch.device("meta")
    asked: list[torch.device] = []

    def load(checkpoint: Checkpoint, *, device: torch.device, **rest: object) -> KimiK2Model:
        asked.append(device)
        return build_model(checkpoint).to(device)

    monkeypatch.setattr(engine_load, "try_device", lambda name: card)
    monkeypatch.setattr(engine_load, "load_model", load)
    engine = load_engine(folder, EngineOptions(device="card", cache_tokens=512, bandwidth=1.0))
    assert asked == [card] and isinstance(engine.runner, TorchRunner)
    assert engine.cache.storage.device == card
    moved = load_engine(random_model(BASE), EngineOptions(device="card", bandwidth=1.0))
    assert isinstance(moved.runner, TorchRunner) and moved.cache.storage.device == card
    assert {p.device for p in moved.runner.model.parameters()} == {card}
    for each in (engine, moved):
        each.close()


def test_the_torch_runner_brings_a_batch_to_the_device_of_the_model() -> None:
    """Without experts, whose sizes nobody can read on `meta`."""
    config = replace(BASE, first_k_dense_replace=BASE.num_hidden_layers)
    model = random_model(config).to("meta")
    runner = select_runner(model)
    assert isinstance(runner, TorchRunner)
    cache = PagedLatentCache.for_model(config, 4, device="meta")
    batch = build_batch([SequenceRows([1, 2, 3], 0, [2], 1), SequenceRows([4], 65, [0, 1], 1)])
    with torch.inference_mode():
        context = PagedContext(model.model, batch, cache, torch.device("meta"))
        logits = model(batch.input_ids.to("meta"), context)
    assert logits.device.type == "meta" and logits.shape == (2, config.vocab_size)


def test_the_defaults_of_the_engine_stand_once(folder: Path) -> None:
    assert Settings().engine == EngineOptions() == Settings.from_options({}).engine
    own = set(Settings.__dataclass_fields__)
    assert not own & set(EngineOptions.__dataclass_fields__)
    chosen = Settings.from_options({"max_sequences": 3, "exact": True, "port": 1})
    assert (chosen.engine.max_sequences, chosen.engine.exact, chosen.port) == (3, True, 1)
    service = build_service(folder, Settings.from_options({"max_context": 100}))
    assert service.max_context == 100
    assert BF16.bits == 16
