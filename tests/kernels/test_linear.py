"""y = W x in every format, form and instruction set against torch; every row alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.errors import UsageError
from perilune.kernels import native
from perilune.kernels.matrix import NativeMatrix
from perilune.kernels.native import Form, Format
from tests.kernels import reference
from tests.kernels.conftest import needs_library, random_matrix, relative_error

pytestmark = needs_library
# Against the reference that sees the same rounded activations: only the order of sums differs.
TOLERANCE = 2e-6


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("storage", list(Format))
def test_against_torch_over_shapes_and_tails(isa: str, storage: Format, exact: bool) -> None:
    torch.manual_seed(0)
    form = native.form_for(storage, exact=exact)
    for outputs, inputs, rows in [
        (16, 32, 1),
        (5, 64, 3),
        (77, 160, 13),
        (130, 288, 70),
        (21, 4128, 2),
    ]:
        matrix, numbers = random_matrix(storage, outputs, inputs)
        x = torch.randn(rows, inputs)
        error = relative_error(matrix.linear(x, exact=exact), reference.linear(x, numbers, form))
        assert error < TOLERANCE, (outputs, inputs, rows)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("storage", list(Format))
def test_a_row_is_the_same_alone_and_in_company(isa: str, storage: Format, exact: bool) -> None:
    torch.manual_seed(1)
    matrix, _ = random_matrix(storage, 83, 192)
    x = torch.randn(70, 192)
    together = matrix.linear(x, exact=exact)
    for rows in (1, 2, 3, 5, 6, 7, 11, 12, 13, 23, 64):
        assert torch.equal(matrix.linear(x[:rows], exact=exact), together[:rows]), rows
    assert torch.equal(matrix.linear(x[69:], exact=exact), together[69:])


@pytest.mark.parametrize("storage", list(Format))
def test_threads_change_nothing(storage: Format) -> None:
    matrix, _ = random_matrix(storage, 100, 96)
    x = torch.randn(9, 96)
    results = []
    for threads in (1, 2, 5):
        native.set_threads(threads)
        results.append(matrix.linear(x))
    native.set_threads(0)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    outputs=st.integers(1, 70),
    groups=st.integers(1, 6),
    rows=st.integers(1, 70),
    storage=st.sampled_from(list(Format)),
    isa_name=st.sampled_from(native.isas() if native.available() else ["none"]),
    exact=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_shape(
    outputs: int, groups: int, rows: int, storage: Format, isa_name: str, exact: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    before = native.isa()
    native.select_isa(isa_name)
    try:
        matrix, numbers = random_matrix(storage, outputs, groups * 32)
        x = torch.randn(rows, groups * 32)
        actual = matrix.linear(x, exact=exact)
        expected = reference.linear(x, numbers, native.form_for(storage, exact=exact))
        assert relative_error(actual, expected) < 1e-5
    finally:
        native.select_isa(before)


def test_error_of_int8_activations_is_small() -> None:
    torch.manual_seed(2)
    matrix, numbers = random_matrix(Format.INT4, 64, 2048)
    x = torch.randn(16, 2048)
    exact = reference.linear(x, numbers, Form.F32)
    assert 1e-4 < relative_error(matrix.linear(x), exact) < 1e-2
    assert relative_error(matrix.linear(x, exact=True), exact) < 2e-6


@pytest.mark.parametrize("storage", [Format.INT4, Format.INT8])
def test_int8_activations_are_quantised_bit_for_bit(isa: str, storage: Format) -> None:
    """Powers of two and rows of ties: any other rounding than to nearest even would show."""
    matrix, numbers = random_matrix(storage, 32, 32)
    x = torch.zeros(4, 32)
    x[0] = torch.arange(32) - 16.0
    x[1] = (torch.arange(32) - 16.0) / 127 * 15.5
    x[2, 7] = 1e15
    x[3] = torch.randn(32) * 1e-20
    expected = reference.linear(x, numbers, Form.INT8)
    actual = matrix.linear(x)
    for row in range(4):
        assert relative_error(actual[row], expected[row]) < TOLERANCE, row


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("storage", list(Format))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(
    isa: str, storage: Format, exact: bool, bad: float
) -> None:
    matrix, _ = random_matrix(storage, 48, 64)
    x = torch.randn(7, 64)
    good = matrix.linear(x, exact=exact)
    x[3, 40] = bad
    y = matrix.linear(x, exact=exact)
    assert not bool(y[3].isfinite().any())
    keep = [0, 1, 2, 4, 5, 6]
    assert torch.equal(y[keep], good[keep])


@pytest.mark.parametrize("storage", list(Format))
def test_zeros_and_no_rows(isa: str, storage: Format) -> None:
    matrix, _ = random_matrix(storage, 40, 64)
    assert torch.equal(matrix.linear(torch.zeros(3, 64)), torch.zeros(3, 40))
    assert matrix.linear(torch.zeros(0, 64)).shape == (0, 40)
    assert matrix.linear(torch.zeros(2, 3, 64)).shape == (2, 3, 40)


def test_every_e4m3_value_is_exact(isa: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # 254 numbers; the other two are NaN
    weight = torch.zeros(codes.numel(), 32, dtype=torch.uint8)
    weight[:, 5] = codes
    numbers = weight.view(torch.float8_e4m3fn).float()
    matrix = NativeMatrix.from_plain_(weight.view(torch.float8_e4m3fn), torch.ones(2, 1))
    x = torch.zeros(1, 32)
    x[0, 5] = 1.0
    assert torch.equal(matrix.linear(x)[0], numbers[:, 5])


def test_refusals() -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        NativeMatrix.from_plain_(torch.randn(16, 40))
    with pytest.raises(UsageError, match="contiguous"):
        NativeMatrix.from_plain_(torch.randn(64, 16).T)
    with pytest.raises(UsageError, match="float16"):
        NativeMatrix.from_plain_(torch.randn(16, 32).half())
    with pytest.raises(UsageError, match="NaN"):
        values = torch.full((16, 128), 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)
        NativeMatrix.from_plain_(values, torch.ones(1, 1))
    with pytest.raises(UsageError, match="scale per block"):
        NativeMatrix.from_plain_(torch.zeros(16, 128).to(torch.float8_e4m3fn))
    with pytest.raises(UsageError, match="shape"):
        NativeMatrix.from_int4_(
            torch.zeros(16, 8, dtype=torch.int32), torch.zeros(16, 3, dtype=torch.bfloat16)
        )
    with pytest.raises(UsageError, match="not finite"):
        NativeMatrix.quantize(torch.full((16, 32), float("inf")))
    matrix, _ = random_matrix(Format.F32, 16, 32)
    with pytest.raises(UsageError, match="inputs"):
        matrix.linear(torch.randn(2, 64))
    with pytest.raises(UsageError, match="gradient"):
        matrix.linear(torch.randn(2, 32, requires_grad=True))
