"""What is remembered of texts: the likeliest follower, how sure that is, and how much is kept."""

from __future__ import annotations

import random

import pytest

from perilune.engine.text_memory import MOST_MEMORIES, Calibration, TextMemories, TextMemory


def test_the_longest_context_that_knows_decides() -> None:
    memory = TextMemory()
    for _ in range(8):
        memory.learn([1, 2, 3, 4, 50], 1)
        memory.learn([9, 9, 3, 4, 60], 1)
    assert (memory.guess([1, 2, 3, 4]) or (0, 0))[0] == 50
    assert (memory.guess([9, 9, 3, 4]) or (0, 0))[0] == 60
    assert (memory.guess([7, 7, 3, 4]) or (0, 0))[0] in (50, 60)
    assert memory.guess([3, 7]) is None
    assert memory.guess([4]) is None


def test_only_what_was_said_is_learnt() -> None:
    memory = TextMemory()
    memory.learn([1, 2, 3, 4, 5, 6], 2)
    assert memory.guess([1, 2]) is None
    assert memory.guess([3, 4]) is not None
    memory.learn([], 0)
    memory.learn([7], 1)  # without a context
    assert memory.guess([7]) is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_it_is_as_sure_as_it_is_right(share: float) -> None:
    """After contexts that go on alike in `share` of all cases, it says so."""
    memory, rng = TextMemory(), random.Random(3)
    said, right, guesses = 0.0, 0, 0
    for index in range(6000):
        context = [1, rng.randrange(20)]
        token = 100 + context[1] if rng.random() < share else rng.randrange(10_000, 2**20)
        if index > 2000:
            guess = memory.guess(context)
            assert guess is not None
            guesses += 1
            said += guess[1]
            right += guess[0] == token
        memory.learn([*context, token], 1)
    assert said / guesses == pytest.approx(right / guesses, abs=0.04)
    assert right / guesses == pytest.approx(share, abs=0.1)


def test_a_habit_that_changes_is_followed() -> None:
    memory = TextMemory()
    for _ in range(100):
        memory.learn([1, 2, 3], 1)
    for _ in range(8):
        memory.learn([1, 2, 4], 1)
    assert (memory.guess([1, 2]) or (0, 0))[0] == 4


def test_it_keeps_what_comes_up_again_and_stays_small() -> None:
    memory, rng = TextMemory(most_contexts=300), random.Random(5)
    for _ in range(2000):
        memory.learn([1, 2, 3], 1)
        text = [rng.randrange(10**6) for _ in range(12)]
        memory.learn(text, len(text))
    assert (memory.guess([1, 2]) or (0, 0))[0] == 3
    assert memory.num_contexts < 2 * (300 + 40)


def test_salts_share_no_text() -> None:
    memories = TextMemories()
    assert memories.of("a") is memories.of("a")
    memories.of("a").learn([1, 2, 3], 1)
    assert memories.of("a").guess([1, 2]) is not None
    assert memories.of("b").guess([1, 2]) is None
    for index in range(MOST_MEMORIES):
        memories.of(f"salt {index}")
    assert memories.of("a").guess([1, 2]) is None, "the one that was not used for longest went"
    memories.of("c").learn([1, 2, 3], 1)
    memories.clear()
    assert memories.of("c").guess([1, 2]) is None


def test_a_calibration_begins_with_the_counts() -> None:
    memory = TextMemory(Calibration())
    memory.learn([1, 2, 3], 1)
    once = memory.guess([1, 2])
    memory.learn([1, 2, 3], 1)
    memory.learn([1, 2, 3], 1)
    again = memory.guess([1, 2])
    assert once is not None and again is not None
    assert 0.2 < once[1] < 0.6 < again[1] < 1.0
