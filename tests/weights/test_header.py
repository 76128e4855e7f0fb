"""The header parser against the reference implementation, by hand-made faults and by mutation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from perilune.errors import CorruptFileError
from perilune.weights.header import (
    MAX_HEADER_BYTES,
    encode_header,
    parse_header,
    read_header,
)

FILE = Path("model.safetensors")
GOOD = save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)})


def split(raw: bytes) -> tuple[bytes, int]:
    length = int.from_bytes(raw[:8], "little")
    return raw[8 : 8 + length], len(raw) - 8 - length


def entry(
    dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(GOOD)
    header = read_header(file)
    assert {n: (t.dtype, t.shape, t.nbytes) for n, t in header.tensors.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("BF16", (4,), 8),
    }
    at = header.tensors["a"].start
    assert GOOD[at : at + 8] == torch.tensor([0.0, 1.0]).numpy().tobytes()


def test_the_reference_reads_what_we_write(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    header = encode_header(
        [("ä", "I32", (2,)), ("e", "BF16", (0, 3)), ("s", "F32", ())], {"k": "v"}
    )
    assert len(header) % 8 == 0
    file.write_bytes(header + bytes(range(12)))
    tensors = load_file(file)
    assert tensors["ä"].tolist() == [0x03020100, 0x07060504]
    assert tensors["e"].shape == (0, 3) and tensors["s"].shape == ()
    assert read_header(file).metadata == {"k": "v"}


FAULTS = {
    "not JSON": (b"{not json}", "not valid JSON"),
    "not an object": (b"[1, 2]", "does not start"),
    "empty": (b"", "does not start"),
    "not UTF-8": (b'{"\xff": 1}', "not valid JSON"),
    "deep nesting": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not valid JSON"),
    "many objects": (b'{"a":[' + b"{}," * 1_000_001 + b"{}]}", "more than"),
    "many lists": (b'{"a":[' + b"[]," * 2_000_001 + b"[]]}", "more than"),
    "huge number": (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
                    "not valid JSON"),
    "NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "not a JSON number"),
    "twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
              b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "given twice"),
    "key twice": (b'{"a":{"dtype":"F32","dtype":"U8","shape":[2],"data_offsets":[0,8]}}',
                  "given twice"),
    "trailing text": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}x', "not valid"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_text(name: str) -> None:
    text, message = FAULTS[name]
    with pytest.raises(CorruptFileError, match=message) as caught:
        parse_header(text, 8, file=FILE)
    assert caught.value.file == FILE and caught.value.remedy


BAD_ENTRIES = {
    "no object": 7,
    "a key too few": {"dtype": "F32", "shape": [2]},
    "a key too many": {**entry(), "code": "import os"},
    "unknown dtype": entry(dtype="F4X"),
    "dtype no text": entry(dtype=["F32"]),
    "negative size": entry(shape=(-2,)),
    "fractional size": entry(shape=(2.0,)),
    "boolean size": entry(shape=(True, 2)),
    "size no list": entry(shape="2"),
    "too many dimensions": entry(shape=(1,) * 9 + (2,)),
    "overflowing size": entry(shape=(2**40, 2**40)),
    "three offsets": entry(offsets=(0, 8, 8)),
    "negative offset": entry(offsets=(-8, 0)),
    "reversed": entry(offsets=(8, 0)),
    "fractional offset": entry(offsets=(0, 8.0)),
    "shape against length": entry(shape=(3,)),
    "dtype against length": entry(dtype="F64"),
    "starts late": entry(offsets=(8, 16)),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_faulty_entry_names_the_tensor(name: str) -> None:
    text = json.dumps({"layer.weight": BAD_ENTRIES[name]}).encode()
    with pytest.raises(CorruptFileError) as caught:
        parse_header(text, 8, file=FILE)
    assert caught.value.tensor == "layer.weight"


def test_overlap_gap_truncation_and_surplus_bytes() -> None:
    def parse(second: tuple[int, int], data_bytes: int) -> None:
        text = json.dumps({"a": entry(), "b": entry(offsets=second)}).encode()
        parse_header(text, data_bytes, file=FILE)

    parse((8, 16), 16)
    for second, data_bytes, message in (
        ((4, 12), 16, "overlaps"),
        ((0, 8), 8, "overlaps"),
        ((12, 20), 20, "gap"),
        ((8, 16), 15, "truncated"),
        ((8, 16), 17, "follow the last tensor"),
    ):
        with pytest.raises(CorruptFileError, match=message):
            parse(second, data_bytes)


def test_metadata_must_be_text() -> None:
    for metadata in ({"a": 1}, [], "x", {"a": {"b": "c"}}):
        text = json.dumps({"__metadata__": metadata, "a": entry()}).encode()
        with pytest.raises(CorruptFileError, match="__metadata__"):
            parse_header(text, 8, file=FILE)


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**62, 2**64 - 1])
def test_header_bomb_is_refused_before_anything_is_read(tmp_path: Path, length: int) -> None:
    file = tmp_path / "bomb.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptFileError, match="is the limit"):
        read_header(file)


def test_short_files(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for raw in (b"", b"\x00" * 7, (100).to_bytes(8, "little") + b"{}"):
        file.write_bytes(raw)
        with pytest.raises(CorruptFileError):
            read_header(file)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_header(tmp_path / "absent.safetensors")


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_files_never_raise_anything_else(data: st.DataObject) -> None:
    """Flip, cut and insert bytes in header and prefix: parsed or CorruptFileError, nothing else."""
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        what = data.draw(st.sampled_from(("flip", "cut", "insert", "swap")))
        if what == "flip":
            raw[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del raw[at : at + data.draw(st.integers(1, 8))]
        elif what == "insert":
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            raw[at : at + 2] = reversed(raw[at : at + 2])
        if not raw:
            return
    text, data_bytes = split(bytes(raw))
    try:
        header = parse_header(text, data_bytes, file=FILE)
    except CorruptFileError:
        return
    # What is accepted tiles the data exactly.
    covered = sum(t.nbytes for t in header.tensors.values())
    assert covered == data_bytes
    assert all(t.start >= 8 + len(text) for t in header.tensors.values())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.text(max_size=8) | st.just("__metadata__"),
        JSON_VALUES
        | st.fixed_dictionaries(
            {
                "dtype": st.just("F32") | JSON_VALUES,
                "shape": JSON_VALUES,
                "data_offsets": JSON_VALUES,
            }
        ),
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_json_is_parsed_or_refused(value: dict[str, object]) -> None:
    try:
        header = parse_header(json.dumps(value).encode(), 8, file=FILE)
    except CorruptFileError:
        return
    assert sum(t.nbytes for t in header.tensors.values()) == 8
