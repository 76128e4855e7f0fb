"""Lookup, what a run of bad guesses does, and that guessing never shows."""

from __future__ import annotations

import random

import pytest

from perilune.engine.engine import Engine
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.speculation import NgramSpeculator, RowCost, Survival
from perilune.engine.text_memory import TextMemory

from .fakes import answers, fake_engine, run


def lookup(tokens: list[int], limit: int) -> list[int]:
    """The definition: the latest earlier place of the longest ending, and what followed there."""
    for size in range(4, 0, -1):
        ending = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if len(ending) == size and tokens[start : start + size] == ending:
                follow = start + size
                return [tokens[follow + i % (len(tokens) - follow)] for i in range(limit)]
    return []


def speculator(survival: Survival, memory: TextMemory | None = None) -> NgramSpeculator:
    return NgramSpeculator(survival, memory or TextMemory())


def test_proposals_are_those_of_the_definition() -> None:
    rng = random.Random(2)
    for _ in range(200):
        tokens = [rng.choice([1, 2, 3, 256, 2**24]) for _ in range(rng.randint(1, 12))]
        guessing = speculator(Survival())
        for _ in range(40):
            assert guessing.propose(tokens, 5, 0.0) == lookup(tokens, 5)
            tokens.append(rng.choice([1, 2, 3, 256, 2**24]))


def test_it_stops_where_it_does_not_pay_and_tries_now_and_then() -> None:
    survival = Survival()
    tokens = [1, 2, 3] * 10
    lengths = []
    for _ in range(400):
        guessing = speculator(survival)
        guesses = guessing.propose(tokens, 4, 0.3)
        guessing.observe([*tokens, 9], 1, guesses)
        lengths.append(len(guesses))
    assert lengths[0] == 4
    assert max(lengths[40:]) == 1
    assert sum(lengths[40:]) == pytest.approx(360 / Survival.PROBE, abs=1)


def test_it_goes_on_where_it_pays() -> None:
    guessing = speculator(Survival())
    tokens = [1, 2, 3] * 10
    for _ in range(50):
        guesses = guessing.propose(tokens, 6, 0.3)
        assert len(guesses) == 6
        tokens += [1 + (len(tokens) + i) % 3 for i in range(7)]
        guessing.observe(tokens, 7, guesses)


def test_it_begins_again_where_it_pays_again() -> None:
    survival, tokens = Survival(), [1, 2, 3] * 10
    for _ in range(100):
        survival.observe(survival.kind(16), 0, False)
    asked = 0
    while len(guesses := (guessing := speculator(survival)).propose(tokens, 6, 0.3)) < 2:
        guessing.observe([*tokens, *guesses, 1], len(guesses) + 1, guesses)
        asked += 1
        assert asked < 300 * Survival.PROBE


def test_proposals_are_as_long_as_they_come_true() -> None:
    survival, tokens = Survival(), [1, 2, 3] * 10
    kind = survival.kind(16)
    for _ in range(200):
        survival.observe(kind, 0, True)
        survival.observe(kind, 1, True)
        survival.observe(kind, 2, False)
    assert len(speculator(survival).propose(tokens, 6, 0.3)) == 2
    assert len(speculator(survival).propose(tokens, 6, 0.0)) == 6
    # What is true of half of them pays at a quarter of a step a row, and not at three quarters.
    half = Survival()
    for index in range(600):
        half.observe(kind, 0, index % 2 == 0)
        half.observe(kind, 1, True)
    assert len(speculator(half).propose(tokens, 2, 0.25)) == 2
    assert len(speculator(half).propose(tokens, 2, 0.75)) == 0


def test_guesses_that_were_not_tried_teach_nothing() -> None:
    survival, tokens = Survival(), [1, 2, 3] * 10
    kind = survival.kind(16)
    before = [survival.share(kind, place) for place in range(4)]
    guessing = speculator(survival)
    guesses = guessing.propose(tokens, 4, 0.0)
    guessing.observe([*tokens, guesses[0], 9], 2, guesses)  # the second one was wrong
    after = [survival.share(kind, place) for place in range(4)]
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert after[2:] == before[2:]


def test_another_text_that_began_alike_is_followed_as_far_as_it_was_alike() -> None:
    """Calls that differ in one argument: the form is guessed, and not the argument."""
    survival, memory = Survival(), TextMemory()
    form, rng = list(range(100, 112)), random.Random(4)
    for _ in range(30):
        text = [5, *form, rng.randrange(10_000, 60_000), *form[::-1]]
        speculator(survival, memory).observe(text, len(text) - 1, [])
    guesses = speculator(survival, memory).propose([7, 7, 5, 100, 101], 30, 0.5)
    assert guesses == form[2:]
    assert speculator(Survival()).propose([7, 7, 5, 100, 101], 30, 0.5) == []


def test_a_text_copies_from_itself_what_others_did_not_say() -> None:
    survival, memory = Survival(), TextMemory()
    for other in range(30):
        speculator(survival, memory).observe([*range(8), 1000 + other], 9, [])
    prompt = [*range(8), 77, 78, 79, 9, *range(8)]
    assert speculator(survival, memory).propose(prompt, 3, 0.3) == [77, 78, 79]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_the_text_is_the_same_with_and_without(temperature: float) -> None:
    """Same seed, same text: stronger than the same distribution, which follows from it."""
    params = SamplingParams(
        max_tokens=300, temperature=temperature, seed=8, ignore_eos=True, frequency_penalty=0.05
    )
    texts, steps = [], []
    for drafts in (0, 6):
        engine = fake_engine(max_draft_tokens=drafts)
        engine.add_request([1, 2, 3, 4], params)
        outputs = run(engine)
        texts.append(answers(outputs))
        steps.append(engine.metrics.steps)
    assert texts[0] == texts[1]
    assert steps[1] < steps[0]
    metrics = outputs[-1].metrics
    assert metrics is not None and metrics.acceptance is not None
    assert steps[0] - steps[1] == metrics.accepted_tokens


def test_what_was_said_speeds_up_the_next_request_of_the_same_salt_only() -> None:
    params = SamplingParams(max_tokens=60, temperature=0.0, seed=8, ignore_eos=True)

    def steps(engine: Engine, cache_salt: str) -> int:
        before = engine.metrics.steps
        engine.add_request([5, 6, 7], params, cache_salt=cache_salt)
        run(engine)
        return engine.metrics.steps - before

    engine = fake_engine(max_draft_tokens=12)
    first = steps(engine, "a")
    for _ in range(3):
        steps(engine, "a")
    assert (again := steps(engine, "a")) < first / 2
    assert steps(engine, "b") > 1.5 * again
    engine.clear_prefix_cache()
    assert steps(engine, "a") > 1.5 * again


def test_a_request_can_do_without() -> None:
    engine = fake_engine(max_draft_tokens=6)
    engine.add_request([1, 2] * 20, SamplingParams(max_tokens=50, speculate=False))
    outputs = run(engine)
    assert outputs[-1].metrics is not None and outputs[-1].metrics.proposed_tokens == 0


def test_what_a_guess_must_earn_is_measured() -> None:
    """A step of 10 ms and 1 ms per row: one sequence pays 1/11 of its step for a further row."""
    cost, rng = RowCost(), random.Random(1)
    assert cost.break_even(1) == RowCost.PRIOR
    for _ in range(500):
        rows = rng.randint(1, 7)
        cost.observe(rows, (10 + rows) * 1e-3 * rng.uniform(0.95, 1.05))
    assert cost.break_even(1) == pytest.approx(1 / 11, abs=0.03)
    assert cost.break_even(16) == pytest.approx(16 / 26, abs=0.06)
    # The machine changes: every row costs as much as a step.
    for _ in range(500):
        rows = rng.randint(1, 7)
        cost.observe(rows, rows * 1e-2)
    assert cost.break_even(1) > 0.8


def test_without_variety_nothing_is_learnt() -> None:
    cost = RowCost()
    for _ in range(100):
        cost.observe(3, 0.01)
    assert cost.break_even(1) == RowCost.PRIOR
