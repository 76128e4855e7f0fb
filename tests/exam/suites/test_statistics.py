"""Wilson intervals and pass@k against their definitions."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.exam.suites.statistics import pass_at_k, wilson


def test_known_intervals() -> None:
    # Brown, Cai and DasGupta (2001) and any table: 0 of 10, 5 of 10, 81 of 263.
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500), st.data())
def test_intervals_hold_the_share_and_shrink(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low))
    wider = wilson(right, total, 2.5758)
    assert wider[0] <= low and high <= wider[1]


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_pass_at_k_is_the_chance_of_a_draw(samples: int) -> None:
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            draws = list(combinations(answers, k))
            assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="needs at least 3"):
        pass_at_k(2, 1, 3)
