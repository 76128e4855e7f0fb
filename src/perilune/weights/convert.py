"""One checkpoint -> the same in another storage format, tensor by tensor.

Quantised weights are dequantised in float32 and rounded once. Which weights a format covers, and by
which rule it rounds, is the format's own (`perilune.formats`). Vision tensors and every small file
are copied as they are, Python files are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from perilune.config import CheckpointConfig, checkpoint_file
from perilune.errors import CorruptFileError, UsageError
from perilune.formats import Part, StorageFormat
from perilune.formats.bf16 import BF16
from perilune.weights.checkpoint import Checkpoint, open_checkpoint
from perilune.weights.load import check_tensors, check_values
from perilune.weights.progress import ProgressCallback
from perilune.weights.published_config import restored_as
from perilune.weights.reader import CHUNK_BYTES, TORCH_DTYPES, TensorReader, tensor_memory
from perilune.weights.tensor_table import FLOATS, TensorSpec, expected_tensors, is_vision
from perilune.weights.write import SHARD_BYTES, write_checkpoint

COPIED = (
    "tiktoken.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "generation_config.json", "preprocessor_config.json", "LICENSE",
)  # fmt: skip


def convert(
    source: str | Path,
    destination: str | Path,
    storage: StorageFormat,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write `source` to `destination` in the storage format `storage`; returns the folder.

    Interrupted, it goes on where it stopped when it is called again. Raises UsageError,
    CheckpointError, DiskFullError (before the first byte, with the numbers).
    """
    checkpoint = open_checkpoint(source)
    check_tensors(checkpoint)
    if checkpoint.config.storage.name == storage.name:
        raise UsageError(f"{checkpoint.folder} is stored as {storage.name} already")
    config = restored_as(checkpoint.config, storage)
    specs = [spec for spec in expected_tensors(config) if not is_vision(spec.name)]
    for name in checkpoint.vision:
        stored = checkpoint.tensors[name]
        specs.append(TensorSpec(name, stored.dtype, stored.shape, Part.VISION))
    small = {name: checkpoint_file(checkpoint.folder, name) for name in COPIED}
    with TensorReader() as reader:
        return write_checkpoint(
            destination,
            config.raw,
            specs,
            _Converter(checkpoint, config, reader),
            identity=_identity(checkpoint, storage),
            extra={name: file for name, file in small.items() if file is not None},
            shard_bytes=shard_bytes,
            progress=progress,
        )


class _Converter:
    """`produce` of `write_checkpoint`: bytes of a tensor of the new format, from the old one."""

    def __init__(self, source: Checkpoint, new: CheckpointConfig, reader: TensorReader) -> None:
        self._tensors = source.tensors
        self._old, self._new = source.config.storage, new.storage
        self._reader = reader
        self._last: tuple[str, dict[str, Tensor]] = ("", {})  # parts of a weight come together

    def __call__(self, spec: TensorSpec) -> Iterator[memoryview]:
        base, _, kind = spec.name.rpartition(".")
        stored = self._tensors.get(spec.name)
        if spec.part is Part.VISION or (spec.is_plain and stored and stored.dtype in FLOATS):
            yield from self._copy(spec)
        elif spec.is_plain:
            yield tensor_memory(self._dequantized(base).to(TORCH_DTYPES[spec.dtype]))
        else:
            if self._last[0] != base:
                self._last = (base, self._quantized(base))
            yield tensor_memory(self._last[1][kind])

    def _copy(self, spec: TensorSpec) -> Iterator[memoryview]:
        """In pieces, from any floating-point dtype to another."""
        stored = self._tensors[spec.name]
        old, new = TORCH_DTYPES[stored.dtype], TORCH_DTYPES[spec.dtype]
        step = CHUNK_BYTES // old.itemsize
        for begin in range(0, spec.numel, step):
            piece = torch.empty(min(step, spec.numel - begin), dtype=old)
            self._reader.read_bytes(stored, begin * old.itemsize, tensor_memory(piece))
            yield tensor_memory(piece.to(new))

    def _dequantized(self, base: str) -> Tensor:
        """The weight `base` in float32, whatever its old format."""
        covered = all(f"{base}.{suffix}" in self._tensors for suffix in self._old.roles)
        storage = self._old if covered else BF16
        parts = {suffix: self._read(f"{base}.{suffix}") for suffix in storage.roles}
        return storage.dequantize(parts, torch.float32)

    def _quantized(self, base: str) -> dict[str, Tensor]:
        """Last parts of the names -> tensors of the new format."""
        weight = self._dequantized(base)
        try:
            return self._new.quantize(weight)
        except ValueError as error:
            raise CorruptFileError(
                str(error),
                file=next(t.file for n, t in self._tensors.items() if n.startswith(f"{base}.")),
                tensor=base,
                remedy="The source is broken: perilune models verify says more",
            ) from None

    def _read(self, name: str) -> Tensor:
        stored = self._tensors[name]
        value = self._reader.read(stored)
        check_values(self._tensors, stored, value)
        return value


def _identity(checkpoint: Checkpoint, storage: StorageFormat) -> str:
    """Changes when the source does, so that a conversion goes on only with the same files."""
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in checkpoint.files]
    config = hashlib.sha256(json.dumps(checkpoint.config.raw, sort_keys=True).encode()).hexdigest()
    return json.dumps(["convert", storage.name, config, files])
