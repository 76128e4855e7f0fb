"""Writing: bit-exact round trips, files others can read, and no half-written folder ever."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.shared import shared_path
from tests.weights.small import FORMATS, INDEX, read_all, same_bits, tiny_checkpoint, tiny_config

from perilune.config import CheckpointConfig, Family, parse_config, read_config
from perilune.errors import CheckpointError, DiskFullError, UsageError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.int4 import INT4
from perilune.model import KimiK2Model
from perilune.weights import write
from perilune.weights.header import read_header
from perilune.weights.load import load_model
from perilune.weights.progress import Progress
from perilune.weights.published_config import config_json, full_size
from perilune.weights.random_weights import RandomWeights
from perilune.weights.tensor_table import Part, TensorSpec, expected_tensors, is_vision
from perilune.weights.verify import verify_checkpoint
from perilune.weights.write import plan_shards, save_model, write_checkpoint


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("storage", FORMATS)
def test_round_trip_is_bit_exact(tmp_path: Path, storage: StorageFormat, family: Family) -> None:
    first = tiny_checkpoint(tmp_path / "a", storage, family)
    config = read_config(first)
    second = save_model(load_model(first), tmp_path / "b", config, shard_bytes=2**19)
    before, after = read_all(first), read_all(second)
    assert any(map(is_vision, before)) == (family is Family.K25)
    assert before.keys() == after.keys()
    assert all(same_bits(before[n], after[n]) for n in before)
    assert json.loads((first / "config.json").read_text()) == json.loads(
        (second / "config.json").read_text()
    )
    report = verify_checkpoint(second)
    assert report.ok and report.has_manifest and not report.findings
    shards = set(json.loads((second / INDEX).read_text())["weight_map"].values())
    others = {"config.json", INDEX, "perilune-manifest.json"}
    assert {file.name for file in second.iterdir()} == shards | others  # and nothing unfinished


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("storage", FORMATS)
def test_configuration_is_read_back(storage: StorageFormat, family: Family) -> None:
    config = full_size(family, storage)
    again = parse_config(config_json(config))
    assert again.text == config.text
    assert (again.family, again.storage, again.tensor_prefix) == (
        family, storage, config.tensor_prefix,
    )  # fmt: skip
    assert again.vision == config.vision
    assert 163_586 in again.eos_token_ids


def test_configuration_of_k25_is_spelt_as_published() -> None:
    published = json.loads((shared_path("data/kimi-tokenizer") / "config.json").read_text("utf-8"))
    ours = config_json(full_size(Family.K25, INT4))

    def within(part: dict[str, Any], whole: dict[str, Any]) -> None:
        for name, value in part.items():
            if isinstance(value, dict):
                within(value, whole[name])
            else:
                assert whole[name] == value, name

    within(ours, published)
    # What is left out: Python, and defaults of a library's base class.
    left_out = published.keys() - ours.keys()
    assert left_out == {"auto_map"}
    left_out = published["text_config"].keys() - ours["text_config"].keys()
    of_the_network = ("rope", "moe", "n_", "q_", "kv_", "qk_", "v_", "topk", "num_")
    assert {name for name in left_out if name.startswith(of_the_network)} == {
        "num_beams", "num_beam_groups", "num_return_sequences",
    }  # fmt: skip


def test_transformers_reads_the_configuration() -> None:
    from transformers import DeepseekV3Config

    theirs = DeepseekV3Config.from_dict(config_json(full_size(Family.K2, BF16)))
    assert (theirs.hidden_size, theirs.n_routed_experts, theirs.kv_lora_rank) == (7168, 384, 512)


def test_shards_are_cut_in_order_and_aligned() -> None:
    specs = list(expected_tensors(tiny_config(INT4)))
    shards = plan_shards(specs, 2**18)
    assert len(shards) > 3 and all(s.nbytes <= 2**18 for s in shards if len(s.specs) > 1)
    assert [s.name for s in shards][:2] == [
        f"model-0000{i}-of-{len(shards):05}.safetensors" for i in (1, 2)
    ]
    assert [spec for shard in shards for spec in shard.specs] == specs
    odd = [TensorSpec("a", "BF16", (3,), Part.NORM), TensorSpec("b", "F32", (2,), Part.ROUTER)]
    assert [s.name for s in plan_shards(odd, 100)[0].specs] == ["b", "a"]


def test_every_tensor_begins_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4)
    widths = {"BF16": 2, "I32": 4, "F32": 4}
    for file in folder.glob("*.safetensors"):
        for entry in read_header(file).tensors.values():
            assert entry.start % widths[entry.dtype] == 0


def test_index_names_sizes_and_files(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = read_all(folder)
    assert index["weight_map"].keys() == stored.keys()
    assert index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for t in stored.values()
    )


class Interrupted(Exception):
    pass


def interrupted(config: CheckpointConfig, after: int, asked: list[str]) -> Any:
    """A producer that fails when it is asked for tensor number `after`."""
    weights = RandomWeights(0, config)

    def produce(spec: TensorSpec) -> Iterator[memoryview]:
        if len(asked) == after:
            raise Interrupted
        asked.append(spec.name)
        yield from weights(spec)

    return produce


def start(folder: Path, produce: Any, identity: str = "x", **more: Any) -> Path:
    config = tiny_config()
    return write_checkpoint(
        folder, config_json(config), expected_tensors(config), produce,
        identity=identity, shard_bytes=2**18, **more,
    )  # fmt: skip


def test_an_interrupted_write_never_looks_complete_and_goes_on(tmp_path: Path) -> None:
    config = tiny_config()
    first: list[str] = []
    with pytest.raises(Interrupted):
        start(tmp_path / "m", interrupted(config, 20, first))
    assert not (tmp_path / "m").exists()
    partial = tmp_path / "m.partial"
    finished = {p.name: p.stat().st_mtime_ns for p in partial.glob("*.safetensors")}
    assert finished and not (partial / "config.json").exists()
    second: list[str] = []
    seen: list[Progress] = []
    start(tmp_path / "m", interrupted(config, -1, second), progress=seen.append)
    total = len(list(expected_tensors(config)))
    assert 0 < total - len(second) <= 20 and set(first) - set(second)
    assert seen[0].done > 2**17  # what was finished counts as done
    assert seen[-1].done == seen[-1].total
    folder = tmp_path / "m"
    for name, modified in finished.items():
        assert (folder / name).stat().st_mtime_ns == modified
    assert not partial.exists() and not list(folder.glob("*unfinished*"))
    whole = start(tmp_path / "whole", RandomWeights(0, config))
    for file in whole.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert verify_checkpoint(folder).ok


def test_another_plan_starts_anew(tmp_path: Path) -> None:
    config = tiny_config()
    with pytest.raises(Interrupted):
        start(tmp_path / "m", interrupted(config, 20, []), "one")
    asked: list[str] = []
    start(tmp_path / "m", interrupted(config, -1, asked), "two")
    assert len(asked) == len(list(expected_tensors(config)))


def test_a_finished_file_that_was_cut_is_written_again(tmp_path: Path) -> None:
    config = tiny_config()
    with pytest.raises(Interrupted):
        start(tmp_path / "m", interrupted(config, 20, []))
    cut = min((tmp_path / "m.partial").glob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:-1])
    start(tmp_path / "m", interrupted(config, -1, []))
    assert verify_checkpoint(tmp_path / "m").ok


def test_the_current_folder_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is the current folder"):
        start(Path(), RandomWeights(0, tiny_config()))
    assert list(tmp_path.parent.glob("*.partial")) == []


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    weights = RandomWeights(0, tiny_config())
    (tmp_path / "m").mkdir()
    start(tmp_path / "m", weights)  # an empty folder is not an obstacle
    with pytest.raises(UsageError, match="exists already"):
        start(tmp_path / "m", weights)
    (tmp_path / "n.partial").mkdir()
    (tmp_path / "n.partial" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not written by Perilune"):
        start(tmp_path / "n", weights)
    assert (tmp_path / "n.partial" / "mine.txt").read_text() == "x"
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        start(tmp_path / "file", weights)


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "m.partial").mkdir()
    descriptor = os.open(tmp_path / "m.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(UsageError, match="another process"):
            start(tmp_path / "m", RandomWeights(0, tiny_config()))
    finally:
        os.close(descriptor)


def test_refuses_with_numbers_when_the_disk_is_too_small(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(DiskFullError, match=r"MB are still to be written.*1\.00 MB are free"):
        start(tmp_path / "m", lambda spec: pytest.fail("a tensor was made"))


def test_disk_that_fills_on_the_way(tmp_path: Path, monkeypatch: Any) -> None:
    real, calls = os.write, []

    def fill(descriptor: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(write.os, "write", fill)
    with pytest.raises(DiskFullError, match="is full"):
        start(tmp_path / "m", RandomWeights(0, tiny_config()))
    monkeypatch.undo()
    assert not (tmp_path / "m").exists()
    start(tmp_path / "m", RandomWeights(0, tiny_config()))
    assert verify_checkpoint(tmp_path / "m").ok


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((CheckpointError, UsageError)):
        start(tmp_path / "file" / "m", RandomWeights(0, tiny_config()))


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: Any) -> None:
    real = os.write
    monkeypatch.setattr(write.os, "write", lambda fd, data: real(fd, data[:1000]))
    start(tmp_path / "m", RandomWeights(0, tiny_config()))
    monkeypatch.undo()
    assert verify_checkpoint(tmp_path / "m").ok


def test_a_model_of_another_format_is_refused(tmp_path: Path) -> None:
    config = tiny_config(INT4)
    with torch.device("meta"):
        model = KimiK2Model(config.text)
    with pytest.raises(UsageError, match="int4"):
        save_model(model, tmp_path / "m", config)
    assert not (tmp_path / "m").exists()
