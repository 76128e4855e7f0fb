"""`perilune models` and `perilune convert` as a user calls them."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from perilune.chat import ChatFormat
from perilune.cli import convert, models
from perilune.cli.new_tokenizer import tokenizer_files
from perilune.config import Family, read_config
from perilune.errors import UsageError
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.model import generate
from perilune.nano.agent import nano_folder
from perilune.weights.load import load_model
from perilune.weights.published_config import config_json, full_size
from perilune.weights.tensor_table import is_vision
from perilune.weights.verify import verify_checkpoint
from tests.shared import shared_path


def call(app: Any, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("storage", list(FORMATS.values()))
def test_new_makes_a_folder_that_works(
    tmp_path: Path, family: Family, storage: StorageFormat
) -> None:
    folder = tmp_path / "m"
    call(models.app, "new", folder, "--like", family, "--format", storage, "--seed", 5)
    config = read_config(folder)
    assert (config.family, config.storage) == (family, storage)
    assert verify_checkpoint(folder).findings == []
    assert len(list(folder.glob("*.safetensors"))) > 1  # an index that matters
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(folder)
    chat = ChatFormat.from_pretrained(folder)
    prompt = [{"role": "user", "content": "What is the weather in 北京?"}]
    ids = chat.encode(prompt)
    assert chat.tokenizer.vocab_size == config.text.vocab_size
    assert "What is the weather in 北京?" in chat.decode(ids)
    im_end = config.text.vocab_size - 254
    assert im_end in chat.stop_ids and im_end in config.eos_token_ids
    generation = generate(model, ids, max_tokens=4, stop_ids=chat.stop_ids)
    assert all(isinstance(chat.decode([i]), str) for i in generation.token_ids)


def test_new_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        call(models.app, "new", tmp_path / name, "--format", "fp8", "--seed", seed)
    same = [(tmp_path / n / "perilune-manifest.json").read_text() for n in "abc"]
    assert same[0] == same[1] != same[2]


def test_new_with_layers_experts_and_refusals(tmp_path: Path) -> None:
    call(models.app, "new", tmp_path / "m", "--layers", 4, "--experts", 8)
    text = read_config(tmp_path / "m").text
    assert (text.num_hidden_layers, text.n_routed_experts) == (4, 8)
    with pytest.raises(UsageError, match="exists already"):
        call(models.app, "new", tmp_path / "m")


def test_new_with_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    real = shared_path("data/kimi-tokenizer")
    with pytest.raises(UsageError, match=r"163840 tokens, but the model has 768"):
        call(models.app, "new", tmp_path / "m", "--tokenizer", real)
    assert not (tmp_path / "m").exists()


def test_new_with_a_tokenizer_that_fits() -> None:
    real = shared_path("data/kimi-tokenizer")
    files = models._tokenizer(real, 163_840)
    assert files == {n: real / n for n in ("tiktoken.model", "tokenizer_config.json")}


def test_tokenizer_of_a_full_size_vocabulary(tmp_path: Path) -> None:
    for name, content in tokenizer_files(163_840).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(config_json(full_size(Family.K25, INT4))))
    chat = ChatFormat.from_pretrained(tmp_path)
    assert chat.tokenizer.vocab_size == 163_840
    assert 163_586 in chat.stop_ids
    text = "The moon goes round. Der Mond! 你好 def f(x): return x**2"
    ids = chat.tokenizer.encode(text)
    assert chat.decode(ids) == text and len(ids) < len(text.encode())


@pytest.mark.parametrize(("family", "storage"), [(Family.K2, FP8), (Family.K25, INT4)])
def test_show_at_full_size_from_the_configuration_alone(
    tmp_path: Path, family: Family, storage: StorageFormat
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_json(full_size(family, storage))))
    text = call(models.app, "show", tmp_path)
    assert "1,026,408,232,448" in text
    assert "32,861,500,928 (31,687,095,808 without" in text
    assert "70,272 B per cached token" in text and "none here" in text
    values = json.loads(call(models.app, "show", tmp_path, "--json"))
    assert values["parameters"] == 1_026_408_232_448
    assert (values["family"], values["format"]) == (family.value, storage.name)
    total = {Family.K2: 1_029_173_249_888, Family.K25: 595_148_192_736}[family]
    assert values["stored"] == total
    assert values["memory"] == total  # the tower is loaded too
    seen = sum(p["stored"] for p in values["parts"] if p["part"] == "vision")
    assert seen == (2 * 471_143_920 if family is Family.K25 else 0)
    assert values["context"] == {Family.K2: 131_072, Family.K25: 262_144}[family]


def test_show_counts_what_is_on_disk(tmp_path: Path) -> None:
    call(models.app, "new", tmp_path / "m", "--like", "k2.5", "--format", "int4")
    values = json.loads(call(models.app, "show", tmp_path / "m", "--json"))
    assert values["files"] == 2
    headers = values["bytes_in_files"] - values["stored"]
    assert 0 < headers < 100_000
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert values["stored"] == index["metadata"]["total_size"]
    assert sum(p["tensors"] for p in values["parts"]) == len(index["weight_map"])


def test_show_lists_no_tower_that_is_not_there(tmp_path: Path) -> None:
    """The layout of K2.5 names one in config.json, for text-only copies too."""
    folder = tmp_path / "m"
    call(models.app, "new", folder, "--like", "k2.5")
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    weight_map = {n: f for n, f in index["weight_map"].items() if not is_vision(n)}
    assert "vision" in call(models.app, "show", folder).split("sum")[0]
    index_file.write_text(json.dumps({**index, "weight_map": weight_map}))
    shown = call(models.app, "show", folder)
    assert "vision" not in shown.split("sum")[0]
    assert "the files do not hold" in shown
    values = json.loads(call(models.app, "show", folder, "--json"))
    assert values["memory"] == values["stored"]
    assert sum(p["tensors"] for p in values["parts"]) == len(weight_map)


def test_show_of_a_text_only_configuration(tmp_path: Path) -> None:
    config = replace(full_size(Family.K25, INT4), vision=None)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    shown = call(models.app, "show", tmp_path)
    assert "vision" not in shown
    assert "k2.5" in shown


def test_show_of_the_model_inside_the_package() -> None:
    values = json.loads(call(models.app, "show", nano_folder(), "--json"))
    headers = values["bytes_in_files"] - values["stored"]
    assert 0 < headers < 300_000
    assert values["memory"] == values["stored"]
    tensors = sum(part["tensors"] for part in values["parts"])
    assert f" {tensors:,} tensors in" in call(models.app, "verify", nano_folder())


def test_verify_good_and_bad(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    call(models.app, "new", folder, "--format", "int4")
    assert "good" in call(models.app, "verify", folder)
    assert json.loads(call(models.app, "verify", folder, "--json"))["ok"] is True
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "warning: pytorch_model.bin" in call(models.app, "verify", folder)
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-5])
    for extra in ((), ("--headers-only",)):
        result = CliRunner().invoke(models.app, ["verify", str(folder), *extra])
        assert result.exit_code == 1
        assert f"error: {shard.name}" in result.stdout and "truncated" in result.stdout
        assert "remedy: Download" in result.stdout
    result = CliRunner().invoke(models.app, ["verify", str(folder), "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)["ok"] is False


def test_verify_of_a_folder_that_is_absent_and_of_a_bomb(tmp_path: Path) -> None:
    absent = CliRunner().invoke(models.app, ["verify", str(tmp_path / "absent")])
    assert absent.exit_code == 1
    assert absent.stdout.startswith("error: absent: there is no folder")
    assert "absent: 1 error\n" in absent.stdout
    call(models.app, "new", tmp_path / "m", "--like", "k2.5")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["vision_config"]["vt_num_hidden_layers"] = 10**5
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    bomb = CliRunner().invoke(models.app, ["verify", str(tmp_path / "m"), "--headers-only"])
    assert bomb.exit_code == 1
    assert bomb.stdout.startswith("error: 100000 vision layers; more than 1024 are refused\n")


def test_verify_lists_twenty_findings_and_counts_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    call(models.app, "new", folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"hidden_size": 256}))
    result = CliRunner().invoke(models.app, ["verify", str(folder)])
    assert result.exit_code == 1
    assert result.stdout.count("error: ") == 20 and "more (--json lists" in result.stdout


def test_verify_records(tmp_path: Path) -> None:
    call(models.app, "new", tmp_path / "m")
    (tmp_path / "m" / "perilune-manifest.json").unlink()
    assert "no manifest" in call(models.app, "verify", tmp_path / "m")
    assert "3 files hashed" in call(models.app, "verify", tmp_path / "m", "--record")


@pytest.mark.parametrize("to", ["int4", "bf16"])
def test_convert(tmp_path: Path, to: str) -> None:
    call(models.app, "new", tmp_path / "a", "--format", "fp8")
    out = call(convert.app, tmp_path / "a", tmp_path / "b", "--to", to)
    assert f"b: {to}, " in out
    assert read_config(tmp_path / "b").storage.name == to
    assert verify_checkpoint(tmp_path / "b").findings == []
    assert load_model(tmp_path / "b")(torch.tensor([[1, 2]])).isfinite().all()
    assert (tmp_path / "b" / "tiktoken.model").is_file()
    shutil.rmtree(tmp_path / "a")  # nothing in it is linked to


def test_convert_needs_a_target() -> None:
    result = CliRunner().invoke(convert.app, ["a", "b"])
    assert result.exit_code == 2
