"""Random schedules with pictures: whatever shares the engine, each request gets what it gets alone.

As `test_schedules`, with prompts that show pictures: the same ones and different ones behind equal
text, prefixes that end within a picture, a decoder that takes its time, an encoder cache that holds
hardly more than the largest picture, pictures that cannot be decoded, few pages, cancellations.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from perilune.chat.deltas import FinishReason
from perilune.engine import media_encoder, prefix_cache
from perilune.engine.media import RequestMedia
from perilune.engine.sampling_params import SamplingParams

from .fakes import answers, check_pages, run
from .seeing_fakes import (
    DAMAGED,
    GRIDS,
    LARGEST,
    PAD,
    Document,
    check_named_pages,
    seeing_engine,
    seeing_reference,
    shown,
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_encoder, "WAIT_SECONDS", 0)


def random_document(rng: random.Random) -> Document:
    """Text and pictures, at most 250 tokens or so."""
    document: Document = []
    for _ in range(rng.randint(1, 4)):
        document += [rng.randrange(PAD) for _ in range(rng.choice([0, 1, 3, 20, 40]))]
        document.append(-1 - rng.randrange(2 * len(GRIDS)))
    return document + [rng.randrange(PAD) for _ in range(rng.choice([0, 1, 10]))]


def changed(rng: random.Random, document: Document) -> Document:
    """Another picture of the same size in the place of one, or text that goes on otherwise."""
    places = [place for place, each in enumerate(document) if each < 0]
    document = list(document)
    if places and rng.random() < 0.6:
        place = rng.choice(places)
        document[place] = -1 - ((-1 - document[place]) ^ 1)
    elif rng.random() < 0.5:
        document = document[: rng.randint(0, len(document))]
    return document + [rng.randrange(PAD) for _ in range(rng.choice([0, 0, 1, 9]))]


def random_params(rng: random.Random, max_n: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=rng.choice([1, 2, 12, 30]),
        temperature=rng.choice([0.0, 0.0, 0.8]),
        top_p=rng.choice([1.0, 0.8]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
        seed=rng.randrange(1, 2**40),
        n=rng.choice([1, 1, 1, min(3, max_n)]),
        ignore_eos=rng.choice([False, True]),
    )


def run_schedule(seed: int) -> Counter[str]:
    """One random schedule, and what happened in it. The seed decides everything."""
    rng = random.Random(seed)
    max_context = 320
    max_sequences = rng.randint(1, 5)
    engine, decoder, tower = seeing_engine(
        pages=rng.randint(5, 10),
        max_batch_tokens=max(max_sequences, rng.choice([1, 7, 33, 64, 150])),
        max_sequences=max_sequences,
        max_draft_tokens=rng.choice([0, 0, 4]),
        max_context=max_context,
        max_patches=rng.choice([1, 20, 100, 10_000]),
        cache_bytes=rng.choice([LARGEST, LARGEST + 40, 4 * LARGEST]),
        blocks=rng.choice([1, 4]),
        rng=random.Random(seed + 1),
    )
    happened: Counter[str] = Counter(schedules=1)
    documents = [random_document(rng) for _ in range(2)]
    expected: dict[tuple[str, int], list[int]] = {}
    blind: set[str] = set()  # requests that show a damaged picture
    cancelled: set[str] = set()
    outputs = []
    to_add = rng.randint(2, 7)
    steps = 0
    while to_add or engine.has_work:
        action = rng.random()
        if to_add and action < 0.3:
            to_add -= 1
            document = changed(rng, rng.choice(documents)) or [1]
            damaged = rng.random() < 0.08
            if damaged:
                document = [*document, 3, -1 - rng.choice(sorted(DAMAGED)), 4]
            prompt, media, _ = shown(document)
            if len(prompt) >= max_context - 1:
                continue
            params = random_params(rng, max_sequences)
            request_id = engine.add_request(
                prompt, params, media=media, priority=rng.choice([0, 0, 1]),
                cache_salt=rng.choice(["", "", "b"]),
            )  # fmt: skip
            if damaged:
                blind.add(request_id)
                continue
            for index in range(params.n):
                expected[request_id, index] = seeing_reference(
                    document, params, seed=params.seed or 0, index=index, max_context=max_context
                )
            documents.append(document + expected[request_id, 0])
        elif 0.3 <= action < 0.34 and engine.request_ids:
            request_id = rng.choice(engine.request_ids)
            assert engine.cancel(request_id)
            cancelled.add(request_id)
        elif 0.34 <= action < 0.345:
            engine.clear_prefix_cache()
        else:
            outputs += engine.step()
            decoder.tick()
            steps += 1
            assert steps < 20_000, "no progress"
        check_pages(engine)
        check_named_pages(engine)
        encoder = engine._media_encoder
        assert encoder is not None and 0 <= encoder.cache.bytes <= encoder.config.cache_bytes

    assert engine.pages.num_held == 0
    metrics = engine.media_metrics
    engine.close()
    found = answers(outputs)
    assert not any(PAD in tokens for tokens in found.values())
    for key, tokens in expected.items():
        produced = found.get(key, [])
        if key[0] in cancelled:
            assert produced == tokens[: len(produced)], key
        else:
            assert produced == tokens, key
    for output in outputs:
        failed = output.finish_reason is FinishReason.ERROR
        assert not failed or (output.request_id in blind and output.error_code == "bad_media")
        if output.finish_reason is not None and output.request_id in blind - cancelled:
            assert failed
        if output.metrics is not None:
            happened["preempted"] += output.metrics.preemptions
            happened["cached"] += output.metrics.cached_tokens
            happened["accepted"] += output.metrics.accepted_tokens
            happened["failed"] += failed
    happened += Counter(
        cancelled=len(cancelled), hits=metrics.hits, reused=metrics.reused,
        encoded=metrics.encoded, again=metrics.encoded - len(tower.encoded),
    )  # fmt: skip
    return happened


def run_schedules(seeds: range) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in seeds:
        try:
            happened += run_schedule(seed)
        except Exception as error:
            error.add_note(f"schedule {seed}: run_schedule({seed}) repeats it")
            raise
    for event in (
        "cancelled", "preempted", "cached", "accepted", "failed", "hits", "reused", "encoded",
        "again",
    ):  # fmt: skip
        assert happened[event] > len(seeds) // 20, (event, happened)
    return happened


def test_random_schedules() -> None:
    run_schedules(range(60))


def test_schedules_in_which_the_numbers_of_rows_are_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers begin anew, while requests of before are still at work."""
    monkeypatch.setattr(prefix_cache, "LEAST_NUMBER", -330)
    monkeypatch.setattr(prefix_cache, "MOST_PICTURES", 1)  # so that they are used up soon
    engine, _, _ = seeing_engine(pages=40)
    params = SamplingParams(max_tokens=12, temperature=0, seed=1)
    outputs = []
    wanted: dict[str, list[int]] = {}
    for n in range(16):
        document = [*range(n % 2, 8), -1 - 10 - n % 2, 5, 6, -1 - 8 - n % 3 % 2, 7]
        prompt, media, _ = shown(document)
        name = engine.add_request(prompt, params, media=media)
        wanted[name] = seeing_reference(document, params, seed=1, index=0, max_context=512)
        for _ in range(3):  # some are still at work when the next one comes
            outputs += engine.step()
            check_pages(engine)
    outputs += run(engine)
    assert engine.prefix_cache._generation > 3
    assert {name: tokens for (name, _), tokens in answers(outputs).items()} == wanted


def test_salts_share_no_rows() -> None:
    engine, decoder, tower = seeing_engine()
    prompt, media, _ = shown([1, 2, -1, 3])
    for salt in ("", "", "b", "b"):
        engine.add_request(prompt, SamplingParams(max_tokens=1), media=media, cache_salt=salt)
        run(engine)
    assert tower.encoded == {0: 2} and decoder.asked == {0: 2}


def test_a_picture_that_many_wait_for_is_encoded_once() -> None:
    engine, decoder, tower = seeing_engine(max_patches=10, blocks=4)
    prompt, media, _ = shown([1, 2, -1 - 6, 3])
    for n in range(4):
        engine.add_request([n, *prompt], SamplingParams(max_tokens=2), media=moved(media))
    run(engine)
    assert tower.encoded == {6: 1} and decoder.asked == {6: 1}


def moved(media: RequestMedia | None) -> RequestMedia:
    """The same one place further."""
    assert media is not None
    features = tuple(replace(each, start=each.start + 1) for each in media.features)
    return replace(media, features=features)


def test_forgotten_numbers_lose_no_full_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose numbers were dropped is found by the keys of its pages."""
    monkeypatch.setattr(prefix_cache, "MOST_PICTURES", 1)
    engine, _, tower = seeing_engine()
    document = [*range(20), -1 - 10, *range(20)]  # 80 rows
    for each in (document, [1, -1, 2], document):
        prompt, media, _ = shown(each)
        engine.add_request(prompt, SamplingParams(max_tokens=1, temperature=0), media=media)
        (*_, last) = run(engine)
        check_pages(engine)
    assert last.metrics is not None and last.metrics.cached_tokens == 64
    assert tower.encoded == {10: 1, 0: 1}


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_two_thousand_random_schedules(block: int) -> None:
    run_schedules(range(60 + block * 500, 560 + block * 500))
