"""Random schedules against the reference: the scheduler's decisions must never show in the text.

Each example drives an engine with few pages through arrivals (shared prefixes, further turns of
what was answered, priorities, salts, n > 1, every kind of sampling), steps and cancellations in
random order. After every step all pages are accounted for, and the named ones hold what their names
say; in the end every answer equals that of the reference, which computes it alone.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from perilune.chat.deltas import FinishReason
from perilune.engine.engine import Engine
from perilune.engine.request import SequenceState
from perilune.engine.sampling_params import SamplingParams
from perilune.runner.cache import PAGE_SIZE

from .fakes import VOCAB, answers, check_pages, fake_engine, reference

# Prompts begin with one of these, so that requests share prefixes of whole pages and of parts.
TRUNKS = [[random.Random(i).randrange(VOCAB - 1) for _ in range(260)] for i in range(3)]


def run_schedule(seed: int) -> Counter[str]:
    """One random schedule, and what happened in it. The seed decides everything."""
    rng = random.Random(seed)
    max_context = rng.choice([200, 320])
    max_sequences = rng.randint(1, 6)
    engine = fake_engine(
        pages=rng.randint(-(-max_context // 64), 12),
        max_batch_tokens=max(max_sequences, rng.choice([1, 7, 33, 64, 150])),
        max_sequences=max_sequences,
        max_draft_tokens=rng.choice([0, 0, 3, 6]),
        max_context=max_context,
    )
    happened = watch_admissions(engine)
    expected: dict[tuple[str, int], list[int]] = {}
    texts = list(TRUNKS)  # and what was asked and answered
    cancelled: set[str] = set()
    outputs = []
    to_add = rng.randint(1, 9)
    steps = 0
    while to_add or engine.has_work:
        action = rng.random()
        if to_add and action < 0.4:
            to_add -= 1
            trunk = rng.choice(texts)
            cut = rng.choice([rng.randint(1, 40), rng.randint(60, 70), rng.randint(1, 180), 180])
            prompt = trunk[:cut] + [rng.randrange(VOCAB - 1) for _ in range(rng.choice([0, 1, 9]))]
            params = random_params(rng, max_sequences)
            request_id = engine.add_request(
                prompt, params, priority=rng.choice([0, 0, 1]), cache_salt=rng.choice(["", "", "b"])
            )
            for index in range(params.n):
                expected[request_id, index] = reference(
                    prompt, params, seed=params.seed or 0, index=index, max_context=max_context
                )
                texts.append(prompt + expected[request_id, index])
        elif 0.4 <= action < 0.44 and engine.request_ids:
            request_id = rng.choice(engine.request_ids)
            assert engine.cancel(request_id) and not engine.cancel(request_id)
            cancelled.add(request_id)
        elif 0.44 <= action < 0.45:
            engine.clear_prefix_cache()
        else:
            outputs += engine.step()
            steps += 1
            assert steps < 20_000, "no progress"
        check_pages(engine)

    assert engine.pages.num_held == 0
    engine.close()
    found = answers(outputs)
    for key, tokens in expected.items():
        if key[0] in cancelled:
            produced = found.get(key, [])
            assert produced == tokens[: len(produced)], key
        else:
            assert found[key] == tokens, key
    happened += Counter(cancelled=len(cancelled), forked=0, schedules=1)
    for output in outputs:
        assert output.finish_reason is not FinishReason.ERROR
        if output.finish_reason is FinishReason.CANCELLED:
            assert output.request_id in cancelled
        if output.metrics is not None:
            happened["preempted"] += output.metrics.preemptions
            happened["cached"] += output.metrics.cached_tokens
            happened["accepted"] += output.metrics.accepted_tokens
            happened["rejected"] += output.metrics.proposed_tokens - output.metrics.accepted_tokens
            happened["forked"] += output.index > 0
    return happened


def watch_admissions(engine: Engine) -> Counter[str]:
    """Counts the sequences that start within a page: in the known one itself, or in a copy."""
    happened: Counter[str] = Counter()
    scheduler = engine.scheduler
    admit = scheduler._admit

    def watched(sequence: SequenceState) -> bool:
        copies = len(scheduler._copies)
        admitted = admit(sequence)
        if sequence.num_computed % PAGE_SIZE:
            happened["copied" if len(scheduler._copies) > copies else "continued"] += 1
        return admitted

    scheduler._admit = watched  # type: ignore[method-assign]
    return happened


def random_params(rng: random.Random, max_n: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=rng.choice([1, 2, 30, 90, None]),
        min_tokens=rng.choice([0, 0, 1]),
        temperature=rng.choice([0.0, 0.0, 0.7, 1.3]),
        top_p=rng.choice([1.0, 0.8]),
        top_k=rng.choice([0, 5]),
        min_p=rng.choice([0.0, 0.05]),
        presence_penalty=rng.choice([0.0, 0.0, 0.6]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.3]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
        seed=rng.randrange(1, 2**40),
        n=rng.choice([1, 1, 1, min(3, max_n)]),
        stop_token_ids=rng.choice([(), (7,)]),
        ignore_eos=rng.choice([False, False, True]),
    )


def run_schedules(seeds: range) -> None:
    happened: Counter[str] = Counter()
    for seed in seeds:
        try:
            happened += run_schedule(seed)
        except Exception as error:
            error.add_note(f"schedule {seed}: run_schedule({seed}) repeats it")
            raise
    # A schedule that never preempts, shares or guesses would prove nothing.
    for event in (
        "cancelled", "preempted", "cached", "copied", "continued", "accepted", "rejected", "forked",
    ):  # fmt: skip
        assert happened[event] > len(seeds) // 20, (event, happened)


def test_random_schedules() -> None:
    run_schedules(range(200))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_ten_thousand_random_schedules(block: int) -> None:
    run_schedules(range(200 + block * 2_450, 2_650 + block * 2_450))
