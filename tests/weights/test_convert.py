"""Conversion between storage formats, against quantisers and dequantisers written here."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.weights.small import edit_json, overwrite, read_all, same_bits, tiny_checkpoint

from perilune.config import Family, read_config
from perilune.errors import CorruptFileError, TensorMismatchError, UsageError
from perilune.formats import FORMATS, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4
from perilune.kernels.quantization import unpack_int4
from perilune.model import named_slots
from perilune.weights.convert import convert
from perilune.weights.load import load_model
from perilune.weights.tensor_table import is_vision
from perilune.weights.verify import verify_checkpoint

EXPERT = "model.layers.1.mlp.experts.2.down_proj"


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize(("old", "new"), list(permutations(FORMATS.values(), 2)))
def test_every_pair(tmp_path: Path, old: StorageFormat, new: StorageFormat, family: Family) -> None:
    source = tiny_checkpoint(tmp_path / "a", old, family)
    target = convert(source, tmp_path / "b", new, shard_bytes=2**19)
    report = verify_checkpoint(target)
    assert report.ok and not report.findings
    before, after = read_config(source), read_config(target)
    assert (after.storage, after.family, after.text) == (new, family, before.text)
    assert after.eos_token_ids == before.eos_token_ids
    a, b = load_model(source, dtype=torch.float32), load_model(target, dtype=torch.float32)
    ids = torch.arange(12)[None]
    x, y = a(ids), b(ids)
    # INT4 makes errors of 10 % and may turn a router's choice; the others are near.
    assert torch.nn.functional.cosine_similarity(x, y, dim=-1).min() > (
        0.8 if new is INT4 else 0.95
    )
    vision = {n: t for n, t in read_all(source).items() if is_vision(n)}
    copied = {n: t for n, t in read_all(target).items() if is_vision(n)}
    assert vision.keys() == copied.keys() and bool(vision) == (family is Family.K25)
    assert all(same_bits(vision[n], copied[n]) for n in vision)


def test_bf16_to_int4_is_the_published_rule(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", BF16)
    target = convert(source, tmp_path / "b", INT4)
    plain, stored = read_all(source), read_all(target)
    weight = plain[f"{EXPERT}.weight"].float()
    scale, packed = stored[f"{EXPERT}.weight_scale"], stored[f"{EXPERT}.weight_packed"]
    assert stored[f"{EXPERT}.weight_shape"].tolist() == list(weight.shape)
    for i in range(0, weight.shape[0], 7):
        for g in range(weight.shape[1] // 32):
            group = weight[i, g * 32 : g * 32 + 32]
            expected = torch.tensor(max(group.abs().max().item() / 7, 1e-5)).to(torch.bfloat16)
            assert scale[i, g] == expected
            for k, value in enumerate(torch.round(group / expected.float()).int().tolist()):
                word = packed[i, (g * 32 + k) // 8].item() & 0xFFFFFFFF
                assert (word >> (4 * (k % 8))) & 15 == value + 8
    # Routed experts only: everything else is the same to the bit.
    others = [n for n in plain if ".experts." not in n]
    assert all(same_bits(plain[n], stored[n]) for n in others)
    assert not {n for n in stored if "weight_packed" in n and ".experts." not in n}


def test_int4_to_bf16_and_back_keeps_the_values(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", INT4)
    plain = convert(source, tmp_path / "b", BF16)
    model = load_model(source)
    experts = model.model.layers[1].mlp.experts
    stored = read_all(plain)
    for e in range(4):
        name = f"model.layers.1.mlp.experts.{e}.up_proj.weight"
        assert same_bits(stored[name], experts.dequantize("up_proj", e, torch.bfloat16))
    again = load_model(convert(plain, tmp_path / "c", INT4)).model.layers[1].mlp.experts
    before, after = experts.dequantize("up_proj", 0), again.dequantize("up_proj", 0)
    scale = experts.up_proj_scale[0].float()
    difference = (after - before).abs().reshape(*scale.shape, 32).amax(-1) / scale
    # Where a group uses the whole range, only roundings to bfloat16 remain; elsewhere (random
    # weights: 1.4 % of the groups) the rule picks a finer scale, half a step away at most.
    full = unpack_int4(experts.up_proj_packed[0]).abs().reshape(*scale.shape, 32).amax(-1) == 7
    assert 0.9 < full.float().mean() < 1
    assert difference[full].max() < 7 / 128 and difference.max() < 0.6


def test_small_files_come_along_and_python_does_not(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", BF16)
    (source / "tiktoken.model").write_bytes(b"abc")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "modeling_deepseek.py").write_text("raise SystemExit")
    edit_json(source / "config.json", lambda raw: raw.update(auto_map={"AutoModel": "x.Y"}, mine=3))
    target = convert(source, tmp_path / "b", INT4)
    assert (target / "tiktoken.model").read_bytes() == b"abc"
    assert not list(target.glob("*.py"))
    raw = json.loads((target / "config.json").read_text())
    assert raw["mine"] == 3 and "auto_map" not in raw
    assert raw["quantization_config"]["quant_method"] == "compressed-tensors"


def test_unused_leftovers_do_not_come_along(tmp_path: Path) -> None:
    """A factor left behind in a bfloat16 checkpoint must not be taken for that of the new FP8."""
    source = tiny_checkpoint(tmp_path / "a", BF16)
    old = "model.layers.0.self_attn.o_proj.weight_scale_inv"
    save_file({old: torch.full((1, 1), 77.0)}, source / "more.safetensors")
    edit_json(
        source / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({old: "more.safetensors"}),
    )
    stored = read_all(convert(source, tmp_path / "b", FP8))
    assert stored[old].item() < 1


def test_a_source_of_float32(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", BF16)
    exact = {n: t.float() * 1.001 for n, t in read_all(source).items()}
    for file in source.glob("model*"):
        file.unlink()
    save_file(exact, source / "model.safetensors")
    stored = dict(named_slots(load_model(convert(source, tmp_path / "b", INT4))))
    name = "model.embed_tokens.weight"
    assert same_bits(stored[name], exact[name].to(torch.bfloat16))
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert same_bits(stored[bias], exact[bias])


def test_interrupted_conversion_goes_on_and_a_changed_source_starts_anew(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", BF16)
    seen = []

    class Interrupted(Exception):
        pass

    def stop(progress: object) -> None:
        seen.append(progress)
        if len(seen) == 60:
            raise Interrupted

    with pytest.raises(Interrupted):
        convert(source, tmp_path / "b", INT4, shard_bytes=2**18, progress=stop)
    assert not (tmp_path / "b").exists()
    finished = list((tmp_path / "b.partial").glob("*.safetensors"))
    assert finished
    seen.clear()
    convert(source, tmp_path / "b", INT4, shard_bytes=2**18, progress=seen.append)
    assert seen[0].done > sum(f.stat().st_size for f in finished if f.exists())  # type: ignore[attr-defined]
    assert verify_checkpoint(tmp_path / "b").ok


def test_refusals(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", INT4)
    with pytest.raises(UsageError, match="int4 already"):
        convert(source, tmp_path / "b", INT4)
    overwrite(source, f"{EXPERT}.weight_scale", b"\xff\x7f")
    with pytest.raises(CorruptFileError, match="NaN") as caught:
        convert(source, tmp_path / "b", BF16)
    assert caught.value.tensor == f"{EXPERT}.weight_scale" and not (tmp_path / "b").exists()
    edit_json(source / "config.json", lambda raw: raw.update(n_routed_experts=8))
    with pytest.raises(TensorMismatchError):
        convert(source, tmp_path / "c", BF16)


def test_weights_that_are_not_finite_name_the_tensor(tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "a", BF16)
    overwrite(source, f"{EXPERT}.weight", b"\xff\x7f")
    with pytest.raises(CorruptFileError, match="not finite") as caught:
        convert(source, tmp_path / "b", INT4)
    assert caught.value.tensor == EXPERT
