"""Lookup, what a run of bad guesses does, and that guessing never shows."""

from __future__ import annotations

import random

import pytest

from perilune.engine.sampling_params import SamplingParams
from perilune.engine.speculation import NgramSpeculator, RowCost, Survival

from .fakes import answers, fake_engine, run


def lookup(tokens: list[int], limit: int) -> list[int]:
    """The definition: the latest earlier place of the longest ending, and what followed there."""
    for size in range(4, 1, -1):
        ending = tokens[-size:]
        for start in range(len(tokens) - size - 1, -1, -1):
            if len(ending) == size and tokens[start : start + size] == ending:
                follow = start + size
                return [tokens[follow + i % (len(tokens) - follow)] for i in range(limit)]
    return []


def test_proposals_are_those_of_the_definition() -> None:
    rng = random.Random(2)
    for _ in range(200):
        tokens = [rng.choice([1, 2, 3, 256, 2**24]) for _ in range(rng.randint(1, 12))]
        speculator = NgramSpeculator(Survival())
        for _ in range(40):
            assert speculator.propose(tokens, 5, 0.0) == lookup(tokens, 5)
            tokens.append(rng.choice([1, 2, 3, 256, 2**24]))


def test_it_stops_where_it_does_not_pay_and_tries_now_and_then() -> None:
    speculator = NgramSpeculator(Survival())
    tokens = [1, 2, 3] * 10
    lengths = []
    for _ in range(400):
        lengths.append(len(speculator.propose(tokens, 4, 0.3)))
        if lengths[-1]:
            speculator.observe(lengths[-1], 0)
    assert lengths[0] == 4
    assert max(lengths[40:]) == 1
    assert sum(lengths[40:]) == pytest.approx(360 / Survival.PROBE, abs=1)


def test_it_begins_again_where_it_pays_again() -> None:
    survival = Survival()
    kind = survival.kind(2)
    for _ in range(100):
        survival.observe(kind, 1, 0)
    assert survival.length(kind, 6, 0.3) == 0
    asked = 0
    while (n := survival.length(kind, 6, 0.3)) < 2:
        survival.observe(kind, n, n)
        asked += 1
        assert asked < 60 * Survival.PROBE


def test_it_goes_on_where_it_pays() -> None:
    speculator = NgramSpeculator(Survival())
    tokens = [1, 2, 3] * 10
    for _ in range(50):
        proposal = speculator.propose(tokens, 6, 0.3)
        assert len(proposal) == 6
        tokens += proposal
        speculator.observe(6, 6)


def test_proposals_are_as_long_as_they_come_true() -> None:
    survival = Survival()
    for _ in range(200):
        survival.observe(0, 6, 2)
    assert survival.length(0, 6, 0.3) == 2
    assert survival.length(0, 6, 0.0) == 6
    # What is true of half of them pays at a quarter of a step a row, and not at three quarters.
    for index in range(600):
        survival.observe(1, 2, 2 * (index % 2))
    assert survival.length(1, 2, 0.25) == 2
    assert survival.length(1, 2, 0.75) == 0


def test_longer_matches_have_a_record_of_their_own_and_sequences_share_it() -> None:
    survival = Survival()
    short, long = [7, 8, 1, 2, 9, 9, 1, 2], [*range(20), 50, *range(20)]
    for _ in range(100):
        proposal = NgramSpeculator(survival).propose(short, 3, 0.3)
        if proposal:
            one = NgramSpeculator(survival)
            one.propose(short, 3, 0.3)
            one.observe(len(proposal), 0)
    assert len(NgramSpeculator(survival).propose(long, 6, 0.3)) == 6
    refused = [NgramSpeculator(survival).propose(short, 3, 0.3) for _ in range(8)]
    assert sum(map(len, refused)) <= 1


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


def test_a_request_can_do_without() -> None:
    engine = fake_engine(max_draft_tokens=6)
    engine.add_request([1, 2] * 20, SamplingParams(max_tokens=50, speculate=False))
    outputs = run(engine)
    assert outputs[-1].metrics is not None and outputs[-1].metrics.proposed_tokens == 0


def test_what_a_guess_must_earn_is_measured() -> None:
    """A step of 10 ms and 1 ms a row: one sequence pays 1/11 of its step for a further row."""
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
