"""The native layout: a permutation, its own inverse known, and nothing else moved."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.kernels import native
from perilune.kernels.native import GROUP
from tests.kernels import reference
from tests.kernels.conftest import needs_library

pytestmark = needs_library


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(0, 70), width=st.integers(1, 40))
def test_words_go_where_the_header_says_and_come_back(rows: int, width: int) -> None:
    library = native.require()
    words = torch.randint(-(2**31), 2**31 - 1, (rows, width), dtype=torch.int32)
    moved = words.clone()
    assert library.plk_interleave(moved.data_ptr(), rows, width) == 0
    assert torch.equal(moved.flatten(), reference.interleave(words))
    assert library.plk_deinterleave(moved.data_ptr(), rows, width) == 0
    assert torch.equal(moved, words)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 70), groups=st.integers(1, 9))
def test_scales_likewise(rows: int, groups: int) -> None:
    library = native.require()
    scale = torch.randn(rows, groups).to(torch.bfloat16)
    moved = scale.clone()
    assert library.plk_interleave_scale(moved.data_ptr(), rows, groups) == 0
    assert torch.equal(moved.flatten(), reference.interleave(scale))
    assert library.plk_deinterleave_scale(moved.data_ptr(), rows, groups) == 0
    assert torch.equal(moved, scale)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), groups=st.integers(1, 4), exponent=st.integers(-30, 30))
def test_int8_weights_are_quantised_bit_for_bit(rows: int, groups: int, exponent: int) -> None:
    inputs = groups * GROUP
    source = (torch.randn(rows, inputs) * 2.0**exponent).to(torch.bfloat16)
    source[0, :GROUP] = 0
    q = torch.empty(rows, inputs, dtype=torch.int8)
    scale = torch.empty(rows, groups, dtype=torch.bfloat16)
    code = native.require().plk_quantize_int8(
        source.data_ptr(), rows, inputs, q.data_ptr(), scale.data_ptr()
    )
    assert code == 0
    expected_q, expected_scale = reference.quantize_int8(source)
    # Within eight inputs the even ones come first; then 32-bit words are interleaved.
    ordered = expected_q.view(rows, -1, 4, 2).transpose(2, 3).reshape(rows, inputs).contiguous()
    assert torch.equal(
        q.view(torch.int32).flatten(), reference.interleave(ordered.view(torch.int32))
    )
    assert torch.equal(scale.flatten(), reference.interleave(expected_scale))
    assert int(expected_q.abs().max()) <= 127
