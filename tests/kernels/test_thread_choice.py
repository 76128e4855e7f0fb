"""The choice of threads finds the fastest number, follows a change, and costs little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.kernels.thread_choice import LONGEST_WAIT, ThreadChoice


def run(choice: ThreadChoice, cost: dict[int, float], steps: int, rows: int = 1) -> list[int]:
    used = []
    for _ in range(steps):
        threads = choice.threads(rows)
        used.append(threads)
        choice.record(rows, cost[threads] * rows)
    return used


def test_the_candidates_are_powers_of_two_and_all() -> None:
    assert ThreadChoice(1).candidates == [1]
    assert ThreadChoice(2).candidates == [1, 2]
    assert ThreadChoice(12).candidates == [1, 2, 4, 8, 12]


def test_one_thread_is_no_choice() -> None:
    assert set(run(ThreadChoice(1), {1: 1.0}, 500)) == {1}


@given(most=st.integers(2, 64), best=st.integers(0, 6))
def test_the_fastest_number_is_found(most: int, best: int) -> None:
    choice = ThreadChoice(most)
    candidates = choice.candidates
    best = min(best, len(candidates) - 1)
    cost = {threads: 1.0 + 0.5 * abs(level - best) for level, threads in enumerate(candidates)}
    used = run(choice, cost, 4000)
    assert used[:32] == [most] * 32  # all of them, until there is something to compare with
    late = used[2000:]
    assert late.count(candidates[best]) > 0.97 * len(late)


def test_a_change_of_the_machine_is_followed() -> None:
    choice = ThreadChoice(2)
    run(choice, {1: 2.0, 2: 1.0}, 3000)
    busy = run(choice, {1: 2.0, 2: 10.0}, 2 * LONGEST_WAIT)
    assert busy[-100:].count(1) > 90
    calm = run(choice, {1: 2.0, 2: 1.0}, 2 * LONGEST_WAIT)
    assert calm[-100:].count(2) > 90


def test_probes_that_do_not_pay_become_rare() -> None:
    used = run(ThreadChoice(2), {1: 2.0, 2: 1.0}, 20_000)
    assert used.count(1) < 40
    assert used[-4096:].count(1) <= 3


def test_steps_of_many_rows_choose_for_themselves() -> None:
    choice = ThreadChoice(2)
    for _ in range(2000):
        for rows, cost in ((1, {1: 1.0, 2: 2.0}), (64, {1: 2.0, 2: 1.0})):
            run(choice, cost, 1, rows)
    assert (choice.threads(1), choice.threads(64)) == (1, 2)


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ThreadChoice(0)
