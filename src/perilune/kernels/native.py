"""The C library of CPU kernels, loaded with ctypes; `csrc/perilune_kernels.h` is its contract.

ctypes releases the interpreter lock during every call. Where the library is absent (a machine
without a C compiler) or does not fit this build, `library()` is None and Perilune computes with
torch; that is said once, as a warning.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from perilune.errors import PeriluneError, UsageError

ABI_VERSION: Final = 2
BLOCK: Final = 16
GROUP: Final = 32
NO_EXPERT: Final = -5  # `PLK_NO_EXPERT`


class KernelError(PeriluneError):
    """A kernel refused its arguments, or memory ran out under it."""

    code = "kernel"


class Format(IntEnum):
    """`plk_format`: how the weights of a native matrix are stored."""

    F32 = 0
    BF16 = 1
    FP8 = 2
    INT8 = 3
    INT4 = 4


class Form(IntEnum):
    """`plk_form`: how activations are fed to a kernel."""

    F32 = 0
    BF16 = 1
    INT8 = 2


class Matrix(ctypes.Structure):
    """`plk_matrix`."""

    _fields_ = [
        ("format", c_int32),
        ("reserved", c_int32),
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("weight", c_void_p),
        ("scale", c_void_p),
    ]


class Experts(ctypes.Structure):
    """`plk_experts`."""

    _fields_ = [
        ("format", c_int32),
        ("reserved", c_int32),
        ("n_experts", c_int64),
        ("hidden", c_int64),
        ("intermediate", c_int64),
        ("table", c_void_p),  # see `perilune.kernels.expert_table`
    ]


# name -> (result, arguments)
SIGNATURES: Final[dict[str, tuple[object, list[object]]]] = {
    "plk_abi_version": (c_int, []),
    "plk_isa": (c_char_p, []),
    "plk_isa_available": (c_char_p, []),
    "plk_isa_select": (c_int, [c_char_p]),
    "plk_threads": (c_int, []),
    "plk_set_threads": (c_int, [c_int]),
    "plk_physical_cores": (c_int, []),
    "plk_cpu_quota": (c_double, []),
    "plk_numa_nodes": (c_int, []),
    "plk_interleave": (c_int, [c_void_p, c_int64, c_int64]),
    "plk_deinterleave": (c_int, [c_void_p, c_int64, c_int64]),
    "plk_interleave_scale": (c_int, [c_void_p, c_int64, c_int64]),
    "plk_deinterleave_scale": (c_int, [c_void_p, c_int64, c_int64]),
    "plk_quantize_int8": (c_int, [c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
    "plk_fp8_count_nan": (c_int64, [c_void_p, c_int64]),
    "plk_form_for": (c_int, [c_int, c_int]),
    "plk_prepared_bytes": (c_int64, [c_int, c_int64]),
    "plk_prepare_part": (
        None,
        [c_int, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int, c_int],
    ),
    "plk_linear": (
        c_int,
        [POINTER(Matrix), c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int],
    ),
    "plk_dense": (
        c_int,
        [
            POINTER(Matrix),
            c_void_p,
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_int64,
            c_int,
            c_int,
        ],
    ),
    "plk_item_attention": (
        c_int,
        [c_void_p, POINTER(c_int64), c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p],
    ),
    "plk_experts_workspace": (c_int64, [POINTER(Experts), c_int64, c_int64, c_int]),
    "plk_experts_forward": (
        c_int,
        [
            POINTER(Experts),
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_void_p,
            c_int64,
            c_void_p,
            c_int64,
            c_int,
        ],
    ),
    "plk_advise_huge_pages": (None, [c_void_p, c_int64]),
    "plk_stream_read": (c_double, [c_void_p, c_int64]),
}
_ERRORS: Final = {
    -1: "a shape that the kernel does not take",
    -2: "a storage format that the kernel does not know",
    -3: "an expert index outside the layer's experts",
    -4: "out of memory",
    NO_EXPERT: "the weights of an expert are not in memory",
}


def library_path() -> Path | None:
    """Where the built library lies beside this module, or None."""
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    override = os.environ.get("PERILUNE_KERNELS")
    if override is not None:  # another build, or "none" to compute with torch
        return None if override in ("", "none") else Path(override)
    import perilune.kernels

    for folder in perilune.kernels.__path__:
        path = Path(folder) / f"libperilune_kernels{suffix}"
        if path.is_file():
            return path
    return None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The C library with its signatures set, or None where it cannot be used (said once)."""
    path = library_path()
    if path is None:
        if os.environ.get("PERILUNE_KERNELS") is None:
            _say("the C kernels were not built (no C compiler at install time)")
        return None
    try:
        lib = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        _say(f"the C kernels could not be loaded ({error})")
        return None
    if lib.plk_abi_version() != ABI_VERSION:
        _say(f"{path.name} is of another build")
        return None
    return lib


def _say(cause: str) -> None:
    warnings.warn(f"{cause}; Perilune computes with torch, slower", RuntimeWarning, stacklevel=3)


def available() -> bool:
    """True where native kernels can be called."""
    return library() is not None


def require() -> ctypes.CDLL:
    """The library; raises KernelError where there is none."""
    lib = library()
    if lib is None:
        raise KernelError(
            "the C kernels are not available", remedy="Install a C compiler and reinstall perilune"
        )
    return lib


def check(code: int, operation: str) -> None:
    """Raise KernelError for a return code other than 0."""
    if code != 0:
        raise KernelError(f"{operation}: {_ERRORS.get(code, f'error {code}')}")


def address(tensor: Tensor, dtype: torch.dtype) -> int:
    """Address of a contiguous CPU tensor of the given dtype; raises UsageError for others."""
    if tensor.device.type != "cpu" or tensor.dtype != dtype or not tensor.is_contiguous():
        raise UsageError(
            f"a kernel needs a contiguous {dtype} CPU tensor, got {tensor.dtype} on "
            f"{tensor.device}, strides {tuple(tensor.stride())}"
        )
    return tensor.data_ptr()


def isa() -> str:
    """The instruction set in use, e.g. "avx512bf16"."""
    return str(require().plk_isa().decode())


def isas() -> list[str]:
    """The instruction sets that this build and processor offer, best first."""
    return str(require().plk_isa_available().decode()).split(",")


def select_isa(name: str) -> None:
    """Use another instruction set (for tests); raises UsageError if it is not available."""
    if require().plk_isa_select(name.encode()) != 0:
        raise UsageError(f"instruction set {name!r} is not available here, only {isas()}")


def threads() -> int:
    """Threads that the kernels run on."""
    return int(require().plk_threads())


def set_threads(n: int) -> int:
    """Set the number of threads (0: the default) and return it."""
    return int(require().plk_set_threads(n))


def form_for(storage: Format, *, exact: bool) -> Form:
    """The activation form in which a product of this format runs here."""
    return Form(require().plk_form_for(int(storage), int(exact)))


def advise_huge_pages(tensor: Tensor) -> None:
    """Ask for 2 MiB pages under a tensor's storage; best effort."""
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes < 2 << 20 or tensor.device.type != "cpu":
        return  # and a small model is read without waiting for the library
    lib = library()
    if lib is not None:
        lib.plk_advise_huge_pages(tensor.data_ptr(), nbytes)


def read_bandwidth(*, mebibytes: int = 256, repetitions: int = 5) -> float:
    """Bytes per second of a read over all threads (median), the limit of a decode step."""
    lib = require()
    buffer = torch.empty(mebibytes << 20, dtype=torch.uint8)
    advise_huge_pages(buffer)
    buffer.fill_(1)
    seconds = sorted(
        lib.plk_stream_read(buffer.data_ptr(), buffer.numel()) for _ in range(repetitions)
    )
    return buffer.numel() / float(seconds[repetitions // 2])


__all__ = [
    "BLOCK",
    "GROUP",
    "NO_EXPERT",
    "Experts",
    "Form",
    "Format",
    "KernelError",
    "Matrix",
    "address",
    "advise_huge_pages",
    "available",
    "check",
    "form_for",
    "isa",
    "isas",
    "library",
    "read_bandwidth",
    "require",
    "select_isa",
    "set_threads",
    "threads",
]
