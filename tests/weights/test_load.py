"""`load_model`: every format, bit-exact to the files and to transformers on dequantised weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from numpy.typing import NDArray
from safetensors.torch import save_file
from tests.model.random_models import random_config, random_ids, random_model, transformers_model
from tests.weights.small import (
    FORMATS,
    INDEX,
    divisible,
    edit_header,
    edit_json,
    header_of,
    read_all,
    same_bits,
    shard_with,
    tiny_checkpoint,
    write_raw,
)
from torch import Tensor

import perilune
from perilune.config import CheckpointConfig, Family, read_config
from perilune.errors import CorruptFileError, OutOfMemoryError, UsageError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.formats.int8 import INT8
from perilune.model import KimiK2Model, named_slots
from perilune.weights import load, memory
from perilune.weights.checkpoint import open_checkpoint
from perilune.weights.convert import convert
from perilune.weights.load import load_model
from perilune.weights.progress import Progress
from perilune.weights.reader import TensorReader
from perilune.weights.stored import StoredExperts, StoredLinear
from perilune.weights.tensor_table import is_vision, stored_name
from perilune.weights.write import save_model


def by_the_book(
    tensors: dict[str, Tensor], block: tuple[int, int] = (128, 128)
) -> dict[str, Tensor]:
    """Stored tensors -> plain float32 weights, from the format descriptions, in numpy."""
    plain = {}
    for name, tensor in tensors.items():
        base, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            words = tensor.numpy().view(np.uint32)
            shifts = np.arange(8, dtype=np.uint32) * 4
            nibbles = (words[:, :, None] >> shifts) & 15
            q = nibbles.reshape(words.shape[0], -1).astype(np.int64) - 8
            scale = bfloat16_to_float32(tensors[f"{base}.weight_scale"])
            rows, columns = tensors[f"{base}.weight_shape"].tolist()
            value = q.astype(np.float32) * np.repeat(scale, 32, axis=1)
            plain[f"{base}.weight"] = torch.from_numpy(value[:rows, :columns])
        elif kind == "weight" and tensor.dtype == torch.float8_e4m3fn:
            factors = tensors[f"{base}.weight_scale_inv"].numpy()
            value = e4m3_to_float32(tensor)
            for i in range(factors.shape[0]):
                for j in range(factors.shape[1]):
                    rows_, columns_ = (
                        slice(n * b, (n + 1) * b) for n, b in zip((i, j), block, strict=True)
                    )
                    value[rows_, columns_] *= factors[i, j]
            plain[name] = torch.from_numpy(value)
        elif kind == "weight" and tensor.dtype == torch.int8:
            scale = bfloat16_to_float32(tensors[f"{base}.weight_scale"])
            plain[name] = torch.from_numpy(
                tensor.numpy().astype(np.float32) * np.repeat(scale, 32, axis=1)
            )
        elif not kind.startswith("weight_"):
            plain[name] = tensor.float()
    return plain


def bfloat16_to_float32(tensor: Tensor) -> NDArray[np.float32]:
    bits = tensor.view(torch.int16).numpy().view(np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32)


def e4m3_to_float32(tensor: Tensor) -> NDArray[np.float32]:
    raw = tensor.view(torch.uint8).numpy().astype(np.int64)
    exponent, mantissa = (raw >> 3) & 15, raw & 7
    value = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    )
    return (np.where(raw & 128, -1, 1) * value).astype(np.float32)


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("storage", FORMATS)
def test_memory_holds_what_the_files_hold(
    tmp_path: Path, storage: StorageFormat, family: Family
) -> None:
    folder = tiny_checkpoint(tmp_path / "m", storage, family)
    model = load_model(folder)
    stored = read_all(folder)
    prefix = "language_model." if family is Family.K25 else ""
    slots = {stored_name(name, prefix): view for name, view in named_slots(model)}
    assert slots.keys() == stored.keys()
    assert any(map(is_vision, slots)) == (family is Family.K25)
    for name, view in slots.items():
        assert same_bits(view, stored[name]), name
    blind = load_model(folder, vision=False)
    assert blind.vision_tower is None and blind.mm_projector is None and blind.vision is None
    text = {prefix + name for name, _ in named_slots(blind)}
    assert text == {name for name in stored if not is_vision(name)}
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


@pytest.mark.parametrize("storage", FORMATS)
def test_state_dict_has_the_names_of_the_files(tmp_path: Path, storage: StorageFormat) -> None:
    folder = tiny_checkpoint(tmp_path / "m", storage)
    state = load_model(folder).state_dict()
    stored = read_all(folder)
    assert state.keys() == stored.keys()
    assert all(same_bits(state[name], stored[name]) for name in stored)


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("seed", [1, 3, 4])
def test_logits_through_the_disk_match_transformers(
    tmp_path: Path, storage: StorageFormat, seed: int
) -> None:
    text = random_config(seed, **divisible(storage))
    config = CheckpointConfig(text, Family.K2)
    source = save_model(random_model(text, seed), tmp_path / "bf16", config, shard_bytes=2**18)
    folder = source
    if storage is not BF16:
        folder = convert(source, tmp_path / "m", storage, shard_bytes=2**18)
    model = load_model(folder, dtype=torch.float32)
    plain = by_the_book(read_all(folder))
    reference = transformers_model(text, plain)
    ids = random_ids(text, 2, 24, seed=seed)
    with torch.no_grad():
        wanted = reference(ids).logits
        ours = model(ids)
        absorbed = model(ids, absorbed=True)
    limit = 1e-4 * wanted.abs().max()
    assert (ours - wanted).abs().max() <= limit
    assert (absorbed - wanted).abs().max() <= limit
    if storage is not BF16:  # and the format matters, so that the test can fail
        original = load_model(source, dtype=torch.float32)(ids)
        assert (ours - original).abs().max() > 10 * limit


@pytest.mark.parametrize("storage", [FP8, INT4, INT8])
def test_modules_dequantise_bit_exactly(tmp_path: Path, storage: StorageFormat) -> None:
    folder = tiny_checkpoint(tmp_path / "m", storage)
    plain = by_the_book(read_all(folder))
    kinds = set()
    for path, module in load_model(folder).named_modules():
        if isinstance(module, StoredLinear):
            kinds.add((type(module), module.storage))
            assert same_bits(module.dequantize(), plain[f"{path}.weight"])
        elif isinstance(module, StoredExperts):
            kinds.add((type(module), module.storage))
            for e in range(module.num_experts):
                for name in ("gate_proj", "up_proj", "down_proj"):
                    assert same_bits(module.dequantize(name, e), plain[f"{path}.{e}.{name}.weight"])
    held = {INT4: [StoredExperts], INT8: [StoredLinear], FP8: [StoredExperts, StoredLinear]}
    assert kinds == {(kind, storage) for kind in held[storage]}


def test_compressed_tensors_package_reads_our_int4(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4)
    raw = read_config(folder).raw["quantization_config"]
    scheme = QuantizationConfig.model_validate(raw).config_groups["group_0"]
    tensors = read_all(folder)
    plain = by_the_book(tensors)
    seen = 0
    for name in tensors:
        base, _, kind = name.rpartition(".")
        if kind != "weight_packed":
            continue
        parts = {
            k: tensors[f"{base}.{k}"] for k in ("weight_packed", "weight_scale", "weight_shape")
        }
        theirs = PackedQuantizationCompressor.decompress(dict(parts), scheme)["weight"]
        assert torch.equal(theirs.float(), plain[f"{base}.weight"].to(torch.bfloat16).float())
        seen += 1
    assert seen == 4 * 3


def test_compute_dtype_is_that_of_the_plain_tensors_only(tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "m", FP8), dtype=torch.float16)
    dtypes = {str(t.dtype).removeprefix("torch.") for _, t in named_slots(model)}
    assert dtypes == {"float16", "float8_e4m3fn", "float32"}
    floats = [n for n, t in named_slots(model) if t.dtype == torch.float32]
    assert all(n.endswith(("weight_scale_inv", "e_score_correction_bias")) for n in floats)
    assert model(torch.tensor([[1, 2]])).dtype == torch.float16


@pytest.mark.parametrize("storage", [FP8, INT4])
def test_stored_dtypes_survive_a_change_of_dtype(tmp_path: Path, storage: StorageFormat) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "m", storage))
    before = {n: t.clone() for n, t in named_slots(model) if "weight_" in n or "exp" in n}
    model.float()
    after = dict(named_slots(model))
    experts = {n for n in before if ".experts." in n}
    assert experts and all(same_bits(before[n], after[n]) for n in experts)
    assert after["model.norm.weight"].dtype == torch.float32


def test_float32_checkpoints_stay_float32(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    tensors = {name: tensor.float() for name, tensor in read_all(folder).items()}
    for file in folder.glob("model*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors")  # one file, no index
    model = load_model(folder)
    assert {t.dtype for _, t in named_slots(model)} == {torch.float32}
    assert all(same_bits(t, tensors[n]) for n, t in named_slots(model))
    halved = load_model(folder, dtype=torch.bfloat16)
    name = "model.embed_tokens.weight"
    assert same_bits(dict(named_slots(halved))[name], tensors[name].to(torch.bfloat16))


def test_chunked_conversion_of_large_tensors(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("perilune.weights.bulk.BLOCK_BYTES", 1000)
    folder = tiny_checkpoint(tmp_path / "m")
    stored = read_all(folder)
    model = load_model(folder, dtype=torch.float32)
    assert all(same_bits(t, stored[n].float()) for n, t in named_slots(model))


def test_leftovers_are_ignored_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = "model.layers.0.self_attn.o_proj.weight_scale_inv"
    save_file(
        {name: torch.zeros(8, dtype=torch.bfloat16), old: torch.full((1, 1), torch.nan)},
        folder / "more.safetensors",
    )
    edit_json(
        folder / INDEX,
        lambda index: index["weight_map"].update(
            {name: "more.safetensors", old: "more.safetensors"}
        ),
    )
    load_model(folder)


def test_a_text_only_copy_of_k25_loads(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4, Family.K25)
    tensors = {n: t for n, t in read_all(folder).items() if n.startswith("language_model.")}
    for file in folder.glob("model*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors")
    load_model(folder)


def test_weight_shape_of_64_bits_as_other_tools_write_it(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4)
    tensors = read_all(folder)
    wide = {n: t.long() if n.endswith("weight_shape") else t for n, t in tensors.items()}
    for file in folder.glob("model*"):
        file.unlink()
    save_file(wide, folder / "model.safetensors")
    assert all(same_bits(t, tensors[n]) for n, t in named_slots(load_model(folder)))


def test_tied_embeddings(tmp_path: Path) -> None:
    text = random_config(2, tie_word_embeddings=True)
    model = random_model(text, 2)
    folder = save_model(model, tmp_path / "m", CheckpointConfig(text, Family.K2))
    loaded = load_model(folder)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    name = "model.embed_tokens.weight"
    assert same_bits(loaded.state_dict()[name], model.state_dict()[name].to(torch.bfloat16))


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", INT4)
    seen: list[Progress] = []
    load_model(folder, progress=seen.append)
    total = sum(t.numel() * t.element_size() for t in read_all(folder).values())
    assert seen[-1].done == seen[-1].total == total
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    half = Progress(done=50, total=100, seconds=2.0)
    assert half.rate == 25 and half.seconds_left == 2.0
    assert Progress(0, 100, 0.0).seconds_left is None


def test_an_error_of_the_callback_ends_the_load(tmp_path: Path) -> None:
    class StopIt(Exception):
        pass

    def stop(progress: Progress) -> None:
        raise StopIt

    with pytest.raises(StopIt):
        load_model(tiny_checkpoint(tmp_path / "m"), progress=stop)


def test_refuses_with_numbers_before_the_first_byte(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    monkeypatch.setattr(memory, "available_memory", lambda device: 1_000_000)
    monkeypatch.setattr(load, "_materialize", lambda *a: pytest.fail("memory was taken"))
    with pytest.raises(OutOfMemoryError, match=r"needs .* MB .* 1\.00 MB are free"):
        load_model(folder)


@pytest.mark.parametrize(
    ("limit", "used", "stat", "field"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
         "total_inactive_file"),
    ],
)  # fmt: skip
def test_available_memory_honours_a_container_limit(
    tmp_path: Path, monkeypatch: Any, limit: str, used: str, stat: str, field: str
) -> None:
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    without = memory.available_memory(torch.device("cpu"))
    assert without is not None and without > 10_000_000
    (tmp_path / limit).write_text("5000000\n")
    (tmp_path / used).write_text("4000000\n")
    (tmp_path / stat).write_text(f"anon 1\n{field} 500000\n")
    assert memory.available_memory(torch.device("cpu")) == 1_500_000
    (tmp_path / limit).write_text("max\n" if limit == "memory.max" else f"{2**63 - 4096}\n")
    assert memory.available_memory(torch.device("cpu")) > 10_000_000  # type: ignore[operator]


def test_only_floating_point_dtypes_compute(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int32"):
        load_model(tiny_checkpoint(tmp_path / "m"), dtype=torch.int32)


def test_a_load_does_not_import_the_compiler_of_torch(tmp_path: Path) -> None:
    folders = [str(tiny_checkpoint(tmp_path / storage.name, storage)) for storage in FORMATS]
    program = (
        "import sys, perilune; from perilune.model import generate\n"
        "for folder in sys.argv[1:]: generate(perilune.load_model(folder), [1, 2], max_tokens=2)\n"
        "print({'sympy', 'torch._dynamo'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *folders], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("device", ["meta", "moon", "cuda:99"])
def test_a_device_that_is_not_there(tmp_path: Path, device: str) -> None:
    with pytest.raises(UsageError, match="device"):
        load_model(tiny_checkpoint(tmp_path / "k2"), device=device)


@pytest.mark.parametrize("storage", FORMATS)
def test_the_caller_may_be_in_inference_mode(tmp_path: Path, storage: StorageFormat) -> None:
    folder = tiny_checkpoint(tmp_path / "k2", storage)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        inside = load_model(folder, dtype=torch.float32)
        logits = inside(ids)
    assert not any(tensor.is_inference() for tensor in inside.state_dict().values())
    with torch.no_grad():
        assert torch.equal(load_model(folder, dtype=torch.float32)(ids), logits)


def test_it_is_the_public_name(tmp_path: Path) -> None:
    model = perilune.load_model(tiny_checkpoint(tmp_path / "m"))
    assert isinstance(model, KimiK2Model)
    assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, model.config.vocab_size)


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    checkpoint = open_checkpoint(folder)
    last = list(checkpoint.tensors.values())[-1]
    last.file.write_bytes(last.file.read_bytes()[:-10])
    with (
        TensorReader() as reader,
        pytest.raises(CorruptFileError, match="10 bytes early") as caught,
    ):
        reader.read(last)
    assert caught.value.tensor == last.name


def test_shards_may_hold_their_tensors_in_any_order(tmp_path: Path) -> None:
    """Published files sort their tensors by name; ours are in network order."""
    folder = tiny_checkpoint(tmp_path / "m")
    before = read_all(folder)
    file = shard_with(folder, "model.norm.weight")
    header, data = header_of(file)
    header.pop("__metadata__")
    moved, parts, at = {}, [], 0
    for name in sorted(header, reverse=True):
        begin, end = header[name]["data_offsets"]
        moved[name] = {**header[name], "data_offsets": [at, at + end - begin]}
        parts.append(data[begin:end])
        at += end - begin
    write_raw(file, json.dumps(moved).encode(), b"".join(parts))
    assert all(same_bits(t, before[n]) for n, t in named_slots(load_model(folder)))


def test_header_metadata_is_harmless(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m")
    file = shard_with(folder, "model.norm.weight")
    edit_header(file, lambda h: h.update(__metadata__={"format": "pt", "exec": "os.system('x')"}))
    load_model(folder)
