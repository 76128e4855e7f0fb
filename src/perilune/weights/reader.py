"""Bytes of a checkpoint file -> tensors, straight into the memory that will hold them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from perilune.errors import CorruptFileError
from perilune.weights.checkpoint import StoredTensor

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.uint8, "U16": torch.uint16, "I16": torch.int16,
    "F16": torch.float16, "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32,
    "F32": torch.float32, "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
CHUNK_BYTES = 16 * 2**20  # a read; large enough for any disk, small enough for a moving bar

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("safetensors files are little-endian; this machine is not")


def tensor_memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable; nothing is copied."""
    if tensor.numel() == 0:
        return memoryview(bytearray())
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]


def unreadable(stored: StoredTensor, error: OSError) -> CorruptFileError:
    """What to raise where the system cannot read a tensor."""
    return CorruptFileError(
        f"cannot be read: {error}",
        file=stored.file,
        tensor=stored.name,
        remedy="Check the disk, then download the file again",
    )


def cut_short(stored: StoredTensor, missing: int) -> CorruptFileError:
    """What to raise where a file lacks the last `missing` bytes of a tensor."""
    return CorruptFileError(
        f"the file ends {missing} bytes early; it was cut while in use",
        file=stored.file,
        tensor=stored.name,
    )


class TensorReader:
    """Reads tensors of open files; a context manager that closes them. One per thread."""

    def __init__(self, *, count: Callable[[int], None] | None = None) -> None:
        self._files: dict[Path, int] = {}
        self._count = count

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def read(self, stored: StoredTensor) -> Tensor:
        """A new CPU tensor in the stored dtype.

        Raises CorruptFileError where the file ends early or cannot be read.
        """
        out = torch.empty(stored.shape, dtype=TORCH_DTYPES[stored.dtype])
        self.read_bytes(stored, 0, tensor_memory(out))
        return out

    def read_bytes(self, stored: StoredTensor, begin: int, into: memoryview) -> None:
        """Fill `into` with the tensor's bytes from `begin` on."""
        try:
            descriptor = self._open(stored.file)
            done, start = 0, stored.start + begin
            while done < len(into):
                piece = into[done : done + CHUNK_BYTES]
                got = os.preadv(descriptor, [piece], start + done)
                if not got:
                    raise cut_short(stored, len(into) - done)
                done += got
                if self._count is not None:
                    self._count(got)
        except OSError as error:
            raise unreadable(stored, error) from None

    def _open(self, file: Path) -> int:
        descriptor = self._files.get(file)
        if descriptor is None:
            descriptor = self._files[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return descriptor
