"""Every way in which a folder can be broken or hostile: a typed error, and nothing is executed.

Each case is loaded and verified; both must name the same fault.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.small import (
    INDEX,
    edit_header,
    edit_json,
    header_of,
    overwrite,
    shard_with,
    tiny_checkpoint,
    write_raw,
)

from perilune.config import Family
from perilune.errors import (
    CheckpointError,
    ConfigError,
    CorruptFileError,
    TensorMismatchError,
    UnsafeFileError,
    UnsafeFileWarning,
    UnsupportedArchitectureError,
)
from perilune.formats import StorageFormat
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.weights.load import load_model
from perilune.weights.verify import verify_checkpoint

NORM = "model.norm.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
EXPERT = "model.layers.1.mlp.experts.2.up_proj"


def load_fails(
    folder: Path, kind: type[CheckpointError], match: str | None = None
) -> CheckpointError:
    with pytest.raises(kind, match=match) as caught:
        load_model(folder)
    error = caught.value
    assert type(error) is kind and error.file is not None and error.remedy
    report = verify_checkpoint(folder)
    assert not report.ok
    found = [f for f in report.findings if f.severity == "error"]
    assert any(f.kind == kind.__name__ and f.file == error.file.name for f in found), found
    return error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model", INT4)


def test_the_folder_is_good(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder)
    assert verify_checkpoint(folder).findings == []


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_shard(folder: Path, keep: int) -> None:
    file = shard_with(folder, NORM)
    file.write_bytes(file.read_bytes()[:keep])
    assert load_fails(folder, CorruptFileError).file == file


def test_truncation_names_the_tensor_that_is_cut(folder: Path) -> None:
    file = shard_with(folder, NORM)
    last = max(
        ((v["data_offsets"][1], k) for k, v in header_of(file)[0].items() if k != "__metadata__")
    )[1]
    file.write_bytes(file.read_bytes()[:-1])
    assert load_fails(folder, CorruptFileError, "truncated").tensor == last


def test_shard_that_is_not_there(folder: Path) -> None:
    shard_with(folder, NORM).unlink()
    load_fails(folder, CorruptFileError, "missing.*incomplete")


def test_header_bomb(folder: Path) -> None:
    file = shard_with(folder, NORM)
    file.write_bytes((2**63).to_bytes(8, "little") + file.read_bytes()[8:])
    load_fails(folder, CorruptFileError, "is the limit")


def test_wrong_length_in_the_header(folder: Path) -> None:
    file = shard_with(folder, NORM)

    def lengthen(header: dict[str, Any]) -> None:
        header[NORM]["data_offsets"][1] += 2

    edit_header(file, lengthen)
    assert load_fails(folder, CorruptFileError, "data_offsets span").tensor == NORM


def test_overlapping_offsets(folder: Path) -> None:
    file = shard_with(folder, NORM)

    def overlap(header: dict[str, Any]) -> None:
        begin, end = header[NORM]["data_offsets"]
        header[NORM]["data_offsets"] = [begin - 4, end - 4]

    edit_header(file, overlap)
    assert load_fails(folder, CorruptFileError, "overlaps").tensor == NORM


def test_a_tensor_twice_in_a_header(folder: Path) -> None:
    file = shard_with(folder, NORM)
    header, data = header_of(file)
    text = json.dumps(header)
    twice = text[:-1] + f', "{NORM}": {json.dumps(header[NORM])}' + "}"
    write_raw(file, twice.encode(), data)
    load_fails(folder, CorruptFileError, "given twice")


# --- tensors -------------------------------------------------------------------------------------


def change_entry(folder: Path, tensor: str, **fields: Any) -> None:
    edit_header(shard_with(folder, tensor), lambda header: header[tensor].update(fields))


def test_wrong_dtype(folder: Path) -> None:
    change_entry(folder, NORM, dtype="I16")
    assert load_fails(folder, TensorMismatchError, r"is I16 \[128\].*BF16").tensor == NORM


def test_scales_must_have_their_dtype(folder: Path) -> None:
    change_entry(folder, f"{EXPERT}.weight_scale", dtype="F16")
    load_fails(folder, TensorMismatchError, "is F16")


def test_wrong_shape(folder: Path) -> None:
    change_entry(folder, NORM, shape=[2, 64])
    assert load_fails(folder, TensorMismatchError, r"\[2, 64\]").tensor == NORM


def rename(folder: Path, tensor: str, new: str, *, in_index: bool = True) -> None:
    file = shard_with(folder, tensor)
    edit_header(file, lambda header: header.update({new: header.pop(tensor)}))
    if in_index:
        edit_json(folder / INDEX, lambda i: i["weight_map"].pop(tensor))
        edit_json(folder / INDEX, lambda i: i["weight_map"].update({new: file.name}))


def test_missing_tensor(folder: Path) -> None:
    rename(folder, NORM, "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert load_fails(folder, TensorMismatchError, "is missing").tensor == NORM


def test_missing_in_the_file_but_in_the_index(folder: Path) -> None:
    rename(folder, NORM, "model.layers.0.self_attn.rotary_emb.inv_freq", in_index=False)
    assert load_fails(folder, TensorMismatchError, "which does not hold it").tensor == NORM


def test_in_the_file_but_not_in_the_index(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].pop(NORM))
    assert load_fails(folder, TensorMismatchError, "not named by the index").tensor == NORM


def test_surplus_tensor(folder: Path) -> None:
    rename(folder, f"{EXPERT}.weight_shape", f"{EXPERT}.weight_extra")
    report = verify_checkpoint(folder)
    assert {(f.tensor, f.message) for f in report.findings if f.kind == "TensorMismatchError"} == {
        (f"{EXPERT}.weight_shape", "is missing; the files hold "
         f"{EXPERT}.weight_packed instead"),
        (f"{EXPERT}.weight_extra", "is not part of the model that config.json describes"),
    }  # fmt: skip


def test_more_layers_than_the_configuration_has(folder: Path) -> None:
    edit_json(folder / "config.json", lambda raw: raw.update(num_hidden_layers=1))
    error = load_fails(folder, TensorMismatchError, r"not part of the model.*\d+ more")
    assert error.tensor is not None and error.tensor.startswith("model.layers.1.")


def test_fewer_experts_than_the_configuration_has(folder: Path) -> None:
    edit_json(folder / "config.json", lambda raw: raw.update(n_routed_experts=8))
    load_fails(folder, TensorMismatchError, "asks for")


def test_storage_format_against_the_configuration(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    other = json.loads((tiny_checkpoint(tmp_path / "o", INT4) / "config.json").read_text())
    edit_json(
        folder / "config.json",
        lambda raw: raw.update(quantization_config=other["quantization_config"]),
    )
    error = load_fails(folder, TensorMismatchError, "missing; the files hold")
    assert "stored in another format" in error.remedy


@pytest.mark.parametrize("storage", [INT4, FP8])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_scales_that_are_not_finite(tmp_path: Path, storage: StorageFormat, value: str) -> None:
    folder = tiny_checkpoint(tmp_path / "m", storage)
    int4 = storage is INT4
    name = f"{EXPERT}.weight_scale" if int4 else f"{EXPERT}.weight_scale_inv"
    bad = torch.tensor([float(value)], dtype=torch.bfloat16 if int4 else torch.float32)
    overwrite(folder, name, bytes(bad.view(torch.uint8).tolist()))
    (folder / "perilune-manifest.json").unlink()
    assert load_fails(folder, CorruptFileError, "1 of .* scales are NaN or infinite").tensor == name


def test_weight_shape_that_says_something_else(folder: Path) -> None:
    name = f"{EXPERT}.weight_shape"
    overwrite(folder, name, (63).to_bytes(4, "little"))
    assert (
        load_fails(
            folder, CorruptFileError, r"says \[63, 128\], the packed weight is \[64, 16\] words"
        ).tensor
        == name
    )


def test_a_flipped_bit_shows_in_the_hash_only(folder: Path) -> None:
    overwrite(folder, f"{EXPERT}.weight_packed", b"\x00\x01")
    load_model(folder)
    findings = verify_checkpoint(folder).findings
    assert [(f.kind, f.file) for f in findings] == [
        ("CorruptFileError", shard_with(folder, EXPERT + ".weight_packed").name)
    ]
    assert "sha256" in findings[0].message
    assert verify_checkpoint(folder, headers_only=True).ok


# --- index ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        "[" * 90_000,
        '{"weight_map": [' + "[]," * 100_000 + "[]]}",
    ],
)
def test_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    assert load_fails(folder, CorruptFileError).file == folder / INDEX


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.bin", 7, None, "..", "a/.."],
)
def test_index_that_points_elsewhere(folder: Path, name: object) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({NORM: name}))
    with pytest.raises(UnsafeFileError):
        load_model(folder)
    assert {f.kind for f in verify_checkpoint(folder).findings if f.severity == "error"} >= {
        "UnsafeFileError"
    }


def test_index_absent_with_shards_there(folder: Path) -> None:
    (folder / INDEX).unlink()
    load_fails(folder, CorruptFileError, "has 2 safetensors files.*index too")


def test_no_weights_at_all(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    load_fails(folder, CorruptFileError, "holds no weights")


# --- files that would have to be executed --------------------------------------------------------


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str, str], int], tuple[str, str]]:
        return _explode, (str(self.marker), "x")


def _explode(path: str, text: str) -> int:
    return Path(path).write_text(text)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pth", "x.pkl", "y.pickle", "z.ckpt"]
)
def test_pickles_beside_safetensors_are_named_and_left_alone(folder: Path, name: str) -> None:
    marker = folder.parent / "exploded"
    (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.warns(UnsafeFileWarning, match="never opened") as caught:
        load_model(folder)
    assert caught[0].message.file == folder / name  # type: ignore[union-attr]
    report = verify_checkpoint(folder)
    assert report.ok and [(f.kind, f.file) for f in report.findings] == [
        ("UnsafeFileWarning", name)
    ]
    assert not marker.exists()


def test_pickles_only(folder: Path) -> None:
    marker = folder.parent / "exploded"
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    load_fails(folder, UnsafeFileError, "no safetensors, only pytorch_model.bin")
    assert not marker.exists()


def booby_trap(folder: Path, name: str, marker: Path) -> None:
    (folder / name).write_text(f"open({str(marker)!r}, 'w').write('executed')\n")


def test_auto_map_with_python_beside_it_is_never_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published Kimi checkpoints ship such files: they load, with a warning that names them."""
    from perilune.chat import ChatFormat
    from perilune.cli.new_tokenizer import tokenizer_files

    marker = folder.parent / "executed"
    names = ("configuration_deepseek.py", "modeling_deepseek.py", "tokenization_kimi.py")
    for name in names:
        booby_trap(folder, name, marker)
    auto_map = {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    }
    edit_json(folder / "config.json", lambda raw: raw.update(auto_map=auto_map))
    for name, content in tokenizer_files(768).items():
        (folder / name).write_bytes(content)
    tokenizer_map = {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}
    edit_json(folder / "tokenizer_config.json", lambda raw: raw.update(auto_map=tokenizer_map))
    monkeypatch.chdir(folder)  # the easiest place to import from by accident
    with pytest.warns(UnsafeFileWarning, match="never imported") as caught:
        load_model(folder)
    assert [w.message.file.name for w in caught] == sorted(names)  # type: ignore[union-attr]
    ChatFormat.from_pretrained(folder)
    report = verify_checkpoint(folder)
    assert report.ok and [f.kind for f in report.findings] == ["UnsafeFileWarning"] * 3
    assert not marker.exists()


def test_python_only(folder: Path) -> None:
    marker = folder.parent / "executed"
    for file in folder.glob("model*"):
        file.unlink()
    booby_trap(folder, "modeling_deepseek.py", marker)
    load_fails(folder, UnsafeFileError, "no safetensors, only modeling_deepseek.py")
    assert not marker.exists()


# --- links and odd files -------------------------------------------------------------------------


def move_out(file: Path, elsewhere: Path) -> None:
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, elsewhere)
    file.symlink_to(os.path.relpath(elsewhere, file.parent))


@pytest.mark.parametrize("which", [INDEX, "config.json", "shard", "perilune-manifest.json"])
def test_links_out_of_the_folder(folder: Path, which: str) -> None:
    file = shard_with(folder, NORM) if which == "shard" else folder / which
    move_out(file, folder.parent / "elsewhere" / file.name)
    report = verify_checkpoint(folder)
    assert [f.kind for f in report.findings] == ["UnsafeFileError"]
    if which != "perilune-manifest.json":
        load_fails(folder, UnsafeFileError, "link out of the checkpoint")


def test_links_within_the_folder_and_to_it(folder: Path) -> None:
    move_out(shard_with(folder, NORM), folder / "blobs" / "abc")
    link = folder.parent / "link"
    link.symlink_to(folder)
    load_model(link)
    assert verify_checkpoint(link).ok


def test_hub_cache_layout(folder: Path) -> None:
    """snapshots/<revision>/file -> ../../blobs/<hash>, as the Hugging Face cache has it."""
    home = folder.parent / "hub" / "models--org--name"
    snapshot = home / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    shutil.move(folder, snapshot)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        move_out(file, home / "blobs" / f"hash{number}")
    load_model(snapshot)
    assert verify_checkpoint(snapshot).ok
    # Out of the cache of this model is out.
    move_out(home / "blobs" / "hash0", folder.parent / "hub" / "models--other" / "x")
    with pytest.raises(UnsafeFileError):
        load_model(snapshot)


def test_broken_link_and_link_to_itself(folder: Path) -> None:
    file = shard_with(folder, NORM)
    file.unlink()
    file.symlink_to("nowhere.safetensors")
    load_fails(folder, UnsafeFileError, "target does not exist")
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(UnsafeFileError):
        load_model(folder)


def test_pipe_and_folder_in_place_of_a_file(folder: Path) -> None:
    file = shard_with(folder, NORM)
    file.unlink()
    os.mkfifo(file)  # reading it would wait for ever
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        load_model(folder)
    file.unlink()
    file.mkdir()
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        load_model(folder)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "kimi_k3"},
        {"model_type": "x", "architectures": ["KimiK3ForCausalLM"]},
        {"model_type": "kimi_linear", "architectures": ["KimiLinearForCausalLM"]},
    ],
)
def test_kimi_k3_is_named(folder: Path, change: dict[str, Any]) -> None:
    edit_json(folder / "config.json", lambda raw: raw.update(change))
    load_fails(folder, UnsupportedArchitectureError, "Kimi K3 is another architecture")


def test_unknown_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", lambda raw: raw.update(model_type="llama"))
    load_fails(folder, UnsupportedArchitectureError, "'llama' is not of the Kimi K2 family")


def test_no_configuration(tmp_path: Path) -> None:
    load_fails(tmp_path, ConfigError, "not found in")
    load_fails(tmp_path / "absent", ConfigError, "there is no folder")


def test_many_faults_are_all_listed(folder: Path) -> None:
    change_entry(folder, NORM, dtype="I16")
    change_entry(folder, "model.layers.0.input_layernorm.weight", shape=[2, 64])
    (folder / "perilune-manifest.json").unlink()
    overwrite(folder, f"{EXPERT}.weight_scale", b"\xff\xff")
    found = {f.tensor for f in verify_checkpoint(folder).findings}
    assert found == {NORM, "model.layers.0.input_layernorm.weight", f"{EXPERT}.weight_scale"}


def test_vision_tensors_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", family=Family.K25)
    change_entry(folder, "mm_projector.pre_norm.weight", dtype="I16")
    with pytest.raises(TensorMismatchError, match="mm_projector"):
        load_model(folder)
    assert load_model(folder, vision=False).vision_tower is None
    (folder / "perilune-manifest.json").unlink()
    report = verify_checkpoint(folder)
    assert not report.ok and [f.severity for f in report.findings] == ["error"]
