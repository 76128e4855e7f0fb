"""What a storage format is: the one object that everything asks which handles stored weights.

A format says how one matrix of the network lies on disk and in memory, which matrices it covers,
how they are made and read, how `config.json` names it, and how the C library takes it. The modules
that hold and multiply (`perilune.weights.stored`), the table of tensors, reader, writer, converter,
verifier, command line and runners know no format by name.

Shape suffixes: O output rows, I inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from perilune.config_fields import Field


class Part(StrEnum):
    """What a tensor is for; `models show` adds up bytes by it."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    DENSE_MLP = "dense feed-forward"
    ROUTER = "router"
    ROUTED_EXPERTS = "routed experts"
    SHARED_EXPERTS = "shared experts"
    NORM = "norms"
    LM_HEAD = "output head"
    VISION = "vision"


class Role(StrEnum):
    """What a tensor is within the weight that it belongs to."""

    PLAIN = "plain"  # the weight itself, in a floating-point dtype
    VALUES = "values"  # its quantised values
    SCALE = "scale"  # factors of the values: they must be finite
    SHAPE = "shape"  # the size that the packed values have no room for


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """One tensor of a matrix. `suffix` is the last part of its name, `dtype` safetensors' name."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    role: Role


@dataclass(frozen=True, slots=True)
class NativeWeights:
    """How the C library takes a matrix (`csrc/perilune_kernels.h`, `plk_format`).

    The values are rearranged in place; the scales too where they are one a group of a row
    (`scale_interleaved`), else they are taken as they are.
    """

    format: str  # a name of `kernels.native.Format`
    values: str  # the suffix of the tensor
    scale: str | None = None
    scale_interleaved: bool = False
    evens_first: bool = False  # of eight inputs first those of even number, then the odd ones
    quantizer: str | None = None
    """The function of the library that makes it of bfloat16 [O, I], rearranged at once."""


@dataclass(frozen=True)
class StorageFormat(ABC):
    """A storage format with its sizes (a group, a block); two of one name may differ in them."""

    name: ClassVar[str]  # of the command line: `models new --format`, `convert --to`
    published_as: ClassVar[str] = ""  # what a `quantization_config` of it is, in a message
    leftovers: ClassVar[tuple[str, ...]] = ()  # suffixes that conversions away from it leave behind
    config_tables: ClassVar[Mapping[str, Mapping[str, Field]]] = {}
    """Title -> the fields of `quantization_config` and what becomes of each."""
    dense_option: ClassVar[bool] = False
    """Whether the engine's `dense_format` may ask for it: the C runner then quantises at load."""
    random_std: ClassVar[float] = 1.0
    """Standard deviation of `random_values`, before the scale."""

    # --- which weights, and how they lie ---------------------------------------------------------

    @abstractmethod
    def covers(self, name: str, part: Part) -> bool:
        """Whether it stores the projection `name` (`kv_b_proj`, ...) of a part of the network."""

    @abstractmethod
    def matrix_tensors(self, rows: int, columns: int) -> tuple[TensorLayout, ...]:
        """The tensors of a matrix [rows, columns]. Raises ValueError for sizes that do not fit."""

    @property
    @abstractmethod
    def bits(self) -> float:
        """Of one parameter, scales included, in a large matrix."""

    @cached_property
    def roles(self) -> Mapping[str, Role]:
        """Suffix -> role of its tensors. A module attribute `weight_x` is the tensor `weight_x`."""
        return {each.suffix: each.role for each in self.matrix_tensors(*self.some_size)}

    @property
    def some_size(self) -> tuple[int, int]:
        """A size that every matrix of this format may have."""
        return (32, 32)

    # --- values ----------------------------------------------------------------------------------

    @abstractmethod
    def quantize(self, weight_OI: Tensor) -> dict[str, Tensor]:
        """A matrix -> its tensors by suffix. Raises ValueError for what is not finite."""

    @abstractmethod
    def dequantize(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Tensors of a matrix, by suffix -> [O, I]; computed in float32, rounded once."""

    def wrong(
        self, suffix: str, value: Tensor, shape: Callable[[str], tuple[int, ...] | None]
    ) -> str:
        """What is wrong with a tensor that says a size, or "". `shape`: that of another suffix."""
        return ""

    def random_values(self, raw: NDArray[np.uint8]) -> Tensor:
        """Random bytes, a whole number of values -> values that quantisation could have made."""
        raise NotImplementedError

    def reads_as_published(self) -> bool | None:
        """Whether this torch reads a word whose value is known from the format's description.

        None: nothing to try.
        """
        return None

    # --- names of it -----------------------------------------------------------------------------

    @abstractmethod
    def claims(self, raw: Mapping[str, Any]) -> int:
        """Whether a `quantization_config` is of this format.

        0: no; 1: its method is; 2: its method and its layout are. The surest is asked to read it.
        """

    @abstractmethod
    def from_config(self, raw: Mapping[str, Any], file: Path | None) -> StorageFormat:
        """The format with the sizes that a `quantization_config` names. Raises ConfigError."""

    @abstractmethod
    def quantization_config(self) -> dict[str, Any] | None:
        """What `config.json` says of it; None: nothing."""

    # --- the C library ---------------------------------------------------------------------------

    @abstractmethod
    def native(self, tensors: Mapping[str, Tensor]) -> NativeWeights | None:
        """How the C library takes a matrix of these tensors; None: it cannot."""

    def no_native(self) -> str:
        """Why the C library cannot take this format with these sizes; "" where it can."""
        return ""

    def __str__(self) -> str:
        return self.name


FORMATS: dict[str, StorageFormat] = {}
"""Every format by its name, with its published sizes."""


def register(storage: StorageFormat) -> None:
    """Make a format known everywhere. Raises ValueError for a name that is taken."""
    if storage.name in FORMATS:
        raise ValueError(f"a storage format named {storage.name!r} exists already")
    FORMATS[storage.name] = storage
