"""How close the kernels come to this machine's limit: bytes of weights per second, and operations.

Every repetition stands between two reads of a large buffer, since other load moves the bandwidth
of a machine within seconds; shares are of the mean of the two, figures are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from perilune.kernels import native
from perilune.kernels.matrix import NativeExpertStack, NativeMatrix
from perilune.kernels.native import GROUP, Format

# Shapes of Kimi K2; eight experts, as many as a token has, are 198 MB in INT4.
HIDDEN: Final = 7168
INTERMEDIATE: Final = 2048
EXPERTS: Final = 8


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kernel at one number of rows. `share` is of the read bandwidth (1 = the limit)."""

    operation: str
    storage: str
    form: str
    rows: int
    seconds: float
    bytes_per_second: float
    share: float
    operations_per_second: float


@dataclass(frozen=True, slots=True)
class _Case:
    operation: str
    storage: Format
    size: int  # bytes of weights
    weights: int
    run: Callable[[int, bool], object]  # rows, exact


def measure_kernels(
    rows: tuple[int, ...] = (1, 4, 16, 64), *, repetitions: int = 7
) -> Iterator[Measurement]:
    """Measure each format's linear product and the routed experts. Needs about 800 MB.

    Rows are rows of the linear product, and rows for each of the eight experts.
    """
    stream = torch.ones(256 << 20, dtype=torch.uint8)
    native.advise_huge_pages(stream)
    library = native.require()

    def bandwidth() -> float:
        return stream.numel() / float(library.plk_stream_read(stream.data_ptr(), stream.numel()))

    for make in (_int4_experts, *(_linear_maker(f) for f in Format)):
        case = make()
        for exact in (False, True):
            form = native.form_for(case.storage, exact=exact)
            if exact and form == native.form_for(case.storage, exact=False):
                continue
            for count in rows:
                case.run(count, exact)
                seconds, shares = [], []
                before = bandwidth()
                for _ in range(repetitions):
                    start = time.perf_counter()
                    case.run(count, exact)
                    seconds.append(time.perf_counter() - start)
                    after = bandwidth()
                    shares.append(case.size / seconds[-1] / ((before + after) / 2))
                    before = after
                middle = statistics.median(seconds)
                yield Measurement(
                    case.operation,
                    case.storage.name.lower(),
                    form.name.lower(),
                    count,
                    middle,
                    case.size / middle,
                    statistics.median(shares),
                    2 * count * case.weights / middle,
                )


def _int4_experts() -> _Case:
    sizes = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
    packed = [_random_bytes(EXPERTS, o, i // 2).view(torch.int32) for o, i in sizes]
    scales = [torch.full((EXPERTS, o, i // GROUP), 0.01).to(torch.bfloat16) for o, i in sizes]
    stack = NativeExpertStack.from_int4_(packed, scales)
    size = sum(t.numel() * t.element_size() for t in (*packed, *scales))

    def run(rows: int, exact: bool) -> Tensor:
        indices = torch.arange(EXPERTS, dtype=torch.int32).expand(rows, EXPERTS)
        weights = torch.ones(rows, EXPERTS)
        return stack.forward(torch.randn(rows, HIDDEN), weights, indices, exact=exact)

    return _Case("experts", Format.INT4, size, EXPERTS * 3 * HIDDEN * INTERMEDIATE, run)


def _linear_maker(storage: Format) -> Callable[[], _Case]:
    def make() -> _Case:
        matrix, size = _random_matrix(storage)
        weights = matrix.out_features * matrix.in_features

        def run(rows: int, exact: bool) -> Tensor:
            return matrix.linear(torch.randn(rows, matrix.in_features), exact=exact)

        return _Case("linear", storage, size, weights, run)

    return make


def _random_matrix(storage: Format) -> tuple[NativeMatrix, int]:
    """About 230 MB of weights, as wide as K2's hidden size, and their bytes."""
    if storage is Format.INT4:
        packed = _random_bytes(7 * HIDDEN, HIDDEN // 2).view(torch.int32)
        scale = torch.full((7 * HIDDEN, HIDDEN // GROUP), 0.01).to(torch.bfloat16)
        return NativeMatrix.from_int4_(packed, scale), packed.nbytes + scale.nbytes
    if storage is Format.INT8:
        matrix = NativeMatrix.quantize(torch.randn(4 * HIDDEN, HIDDEN, dtype=torch.bfloat16))
        assert matrix.scale is not None
        return matrix, matrix.weight.nbytes + matrix.scale.nbytes
    if storage is Format.FP8:
        codes = _random_bytes(4 * HIDDEN, HIDDEN).bitwise_and_(0xBF)  # no NaN among them
        weight = codes.view(torch.float8_e4m3fn)
        factors = torch.ones(4 * HIDDEN // 128, HIDDEN // 128)
        return NativeMatrix.from_plain_(weight, factors), weight.nbytes + factors.nbytes
    dtype = torch.bfloat16 if storage is Format.BF16 else torch.float32
    weight = torch.randn((4 // dtype.itemsize) * HIDDEN, HIDDEN, dtype=dtype)
    return NativeMatrix.from_plain_(weight), weight.nbytes


def _random_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)
