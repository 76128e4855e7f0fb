"""The header of one safetensors file: strict parser and encoder. Reads no tensor, imports no torch.

Layout: eight bytes, the little-endian length N of the header; N bytes of JSON, padded with spaces,
`{"name": {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {...}}`;
then the data, which the offsets must tile without gap or overlap.
Source: the safetensors format description (github.com/huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from perilune.errors import CorruptFileError

# The largest published header of the family has about 3,500 tensors in 0.5 MB; all 208,550
# tensors of K2.5 in one file would need 32 MB. Parsed JSON takes some ten times its text.
MAX_HEADER_BYTES = 48 * 2**20
MAX_TENSORS = 1_000_000

# Bytes of one value. Only the types that a checkpoint of the family can hold, and their kin.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2,
    "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `start` is its first byte, counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file in the order in which they lie on disk."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """Read and check the header of `file` against its length. Raises CorruptFileError."""
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            if len(prefix) < 8:
                _fail(file, f"has {size} bytes, too few for a safetensors file")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                _fail(file, f"claims a header of {length} bytes; {MAX_HEADER_BYTES} is the limit")
            if length > size - 8:
                _fail(file, f"claims a header of {length} bytes, but the file ends after {size}")
            text = stream.read(length)
    except OSError as error:
        raise CorruptFileError(f"cannot be read: {error}", file=file) from None
    return parse_header(text, size - 8 - length, file=file)


def parse_header(text: bytes, data_bytes: int, *, file: Path) -> Header:
    """Check the header `text` of a file with `data_bytes` bytes of data behind it.

    Raises CorruptFileError for whatever is not exactly as the format says; never anything else.
    """
    if not text.startswith(b"{"):
        _fail(file, "the header does not start with '{': not a safetensors file")
    # An entry has one brace and two brackets; millions of empty lists would fill the memory.
    if max(text.count(b"{"), text.count(b"[") // 2) > MAX_TENSORS:
        _fail(file, f"the header names more than {MAX_TENSORS} tensors")
    try:
        raw = json.loads(
            text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        _fail(file, f"the header is not valid JSON: {str(error)[:200]}")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _fail(file, "__metadata__ of the header is not a map of strings")
    offset_base = 8 + len(text)
    entries = [(name, *_entry(name, value, file)) for name, value in raw.items()]
    entries.sort(key=lambda e: (e[3], e[4]))
    tensors: dict[str, TensorEntry] = {}
    expected = 0
    for name, dtype, shape, begin, end in entries:
        if begin != expected:
            what = "overlaps the tensor before it" if begin < expected else "leaves a gap before it"
            _fail(file, f"begins at byte {begin} of the data, not {expected}: it {what}", name)
        tensors[name] = TensorEntry(dtype, shape, offset_base + begin, end - begin)
        expected = end
    if expected > data_bytes:
        last = entries[-1][0]
        _fail(file, f"ends at byte {expected} of the data, the file after {data_bytes}: "
              "the file is truncated", last)  # fmt: skip
    if expected < data_bytes:
        _fail(file, f"{data_bytes - expected} bytes follow the last tensor that the header names")
    return Header(tensors, metadata)


def encode_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Length prefix and header of a file that holds (name, dtype, shape) in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name, dtype, shape in tensors:
        end = begin + tensor_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor; `dtype` is one of DTYPE_BYTES."""
    size = DTYPE_BYTES[dtype]
    for n in shape:
        size *= n
    return size


def _entry(name: str, value: Any, file: Path) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        _fail(file, "its header entry does not hold exactly dtype, shape and data_offsets", name)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        _fail(file, f"unknown dtype {str(dtype)[:40]!r}", name)
    if not _naturals(shape) or len(shape) > 8:
        _fail(file, f"its shape is not a list of sizes: {str(shape)[:80]}", name)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(file, f"its data_offsets are not [begin, end]: {str(offsets)[:80]}", name)
    needed = tensor_bytes(dtype, shape)
    if offsets[1] - offsets[0] != needed:
        _fail(
            file,
            f"{dtype} {shape} needs {needed} bytes, its data_offsets span "
            f"{offsets[1] - offsets[0]}",
            name,
        )
    return dtype, tuple(shape), offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _fail(file: Path, message: str, tensor: str | None = None) -> NoReturn:
    raise CorruptFileError(message, file=file, tensor=tensor)
