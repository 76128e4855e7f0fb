from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.train.config import Method
from perilune.train.optim.newton_schulz import orthogonalise


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 999))
def test_it_is_the_orthogonal_factor(rows: int, columns: int, seed: int) -> None:
    """Of a matrix with singular values from 0.05 to 1: U V^T, values within a tenth of one."""
    torch.manual_seed(seed)
    rank = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, rank)).Q
    v = torch.linalg.qr(torch.randn(columns, rank)).Q
    matrix = u @ torch.diag(torch.linspace(0.05, 1, rank)) @ v.T
    got = u.T @ orthogonalise(matrix[None])[0] @ v
    values = got.diagonal()
    assert values.min() > 0.9 and values.max() < 1.1
    torch.testing.assert_close(got, torch.diag(values), atol=1e-4, rtol=0)


def test_matrices_of_a_stack_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    stack = torch.randn(5, 12, 20)
    stack[2] = 0
    got = orthogonalise(stack, snap=True)
    for i in (0, 1, 3, 4):
        torch.testing.assert_close(got[i], orthogonalise(stack[i : i + 1], snap=True)[0])
    assert got[2].abs().max() == 0


def test_the_quintic_keeps_singular_values_in_its_band() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(
        orthogonalise(torch.randn(1, 64, 64), method=Method.QUINTIC, steps=8)
    )
    assert values.min() > 0.6 and values.max() < 1.25


@pytest.mark.parametrize("shape", [(96, 256), (256, 96), (48, 128), (80, 96)])
def test_small_ill_conditioned_matrices_get_the_full_update(shape: tuple[int, int]) -> None:
    """A rank-8 signal with 1 % noise: seven steps of Polar Express reach the RMS, five quintic
    ones fall short; the snap makes it exact."""
    torch.manual_seed(0)
    rows, columns = shape
    matrix = torch.randn(rows, 8) @ torch.randn(8, columns)
    matrix = (matrix + 0.01 * 8**0.5 * torch.randn(shape))[None]

    def rms(**options: object) -> float:
        update = orthogonalise(matrix, **options) * 0.2 * max(shape) ** 0.5  # type: ignore[arg-type]
        return float(update.square().mean().sqrt())

    assert 0.18 <= rms(steps=7) <= 0.22
    assert rms(method=Method.QUINTIC, steps=5) < 0.16
    assert abs(rms(steps=7, snap=True) - 0.2) < 1e-4
