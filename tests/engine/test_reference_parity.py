"""The engine's logits are those of the reference, whatever shares the batch, the pages, the chunks.

Through the whole engine: with `logprobs` of the whole vocabulary a request reports what the network
said at every place, and the reference says the same in one pass over the finished text.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.outputs import SequenceOutput
from perilune.engine.sampling_params import SamplingParams
from perilune.model.generation import generate
from perilune.weights.load import load_model

from .fakes import answers, check_pages, run
from .models import FORWARDS, VOCAB, reference_logprobs


def engine_of(folder: Path, forward: str, **options: int) -> Engine:
    return load_engine(
        folder, EngineOptions(exact=True, native=forward == "native", seed=7, **options)
    )


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("storage", ["bf16_folder", "int4_folder"])
def test_logits_equal_the_reference(
    storage: str, forward: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(storage)
    model = load_model(folder, dtype=torch.float32)
    rng = random.Random(4)
    trunk = [rng.randrange(500) for _ in range(150)]
    worst = 0.0
    happened = {"preempted": 0, "cached": 0, "accepted": 0}
    for chunk in (5, 24, 200):
        # Pages for about half of what the requests need, so that some give way.
        engine = engine_of(
            folder, forward, cache_tokens=10 * 64, max_sequences=5, max_batch_tokens=chunk
        )
        prompts: dict[str, list[int]] = {}
        outputs: list[SequenceOutput] = []
        for _ in range(8):
            prompt = [*trunk[: rng.choice([3, 64, 130, 150])], rng.randrange(500)]
            if rng.random() < 0.3:
                prompt += [7, 8, 9, 7, 8, 9, 7, 8]  # something to guess from
            params = SamplingParams(
                max_tokens=rng.choice([3, 20, 70]),
                temperature=rng.choice([0.0, 1.0]),
                n=rng.choice([1, 1, 2]),
                seed=rng.randrange(1000),
                ignore_eos=True,
                logprobs=VOCAB,
            )
            prompts[engine.add_request(prompt, params, priority=rng.choice([0, 1]))] = prompt
            outputs += engine.step()
            check_pages(engine)
        outputs += run(engine)
        for (request_id, index), tokens in answers(outputs).items():
            expected = reference_logprobs(model, prompts[request_id], tokens)
            found = torch.full_like(expected, torch.nan)
            entries = [
                entry
                for output in outputs
                if (output.request_id, output.index) == (request_id, index)
                for entry in output.logprobs
            ]
            for row, entry in enumerate(entries):
                ids, values = zip(*entry.top, strict=True)
                found[row, list(ids)] = torch.tensor(values)
            worst = max(worst, float((found - expected).abs().max()))
        for output in outputs:
            if output.metrics is not None:
                happened["preempted"] += output.metrics.preemptions
                happened["cached"] += output.metrics.cached_tokens
                happened["accepted"] += output.metrics.accepted_tokens
        assert engine.pages.num_held == 0
        engine.close()
    assert worst < 1e-4
    assert happened["preempted"] and happened["cached"], happened


@pytest.mark.parametrize("forward", FORWARDS)
def test_greedy_is_the_reference_generator(bf16_folder: Path, forward: str) -> None:
    """Alone and in a batch of others the text is the reference generator's, token for token."""
    model = load_model(bf16_folder, dtype=torch.float32)
    rng = random.Random(11)
    prompts = [[rng.randrange(500) for _ in range(size)] for size in (1, 63, 64, 65, 200)]
    expected = [generate(model, prompt, max_tokens=24).token_ids for prompt in prompts]
    engine = engine_of(bf16_folder, forward, cache_tokens=4096, max_batch_tokens=96)
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    for prompt, tokens in zip(prompts, expected, strict=True):
        engine.add_request(prompt, params)
        assert list(answers(run(engine)).values()) == [tokens]
    engine.clear_prefix_cache()
    for prompt in prompts:
        engine.add_request(prompt, params)
    assert list(answers(run(engine)).values()) == expected
    engine.close()


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_sampled_text_is_the_same_alone_and_in_a_batch(bf16_folder: Path, forward: str) -> None:
    engine = engine_of(bf16_folder, forward, cache_tokens=4096)
    params = SamplingParams(max_tokens=40, temperature=1.0, top_p=0.9, seed=5, ignore_eos=True)
    engine.add_request([1, 2, 3], params)
    (alone,) = answers(run(engine)).values()
    for size in (50, 3, 120):
        engine.add_request([9] * size, SamplingParams(max_tokens=30, ignore_eos=True))
    request_id = engine.add_request([1, 2, 3], params)
    assert answers(run(engine))[request_id, 0] == alone
    engine.close()


def test_the_cache_is_all_that_grows_with_tokens(bf16_folder: Path) -> None:
    """K2 caches 576 values per token and layer; this shape 64 + 16. Pages go by tokens alone."""
    engine = engine_of(bf16_folder, "torch", cache_tokens=1024)
    layers, pages, page, values = engine.cache.storage.shape
    assert (layers, pages, page, values) == (3, 16, 64, 64 + 16)
    assert engine.cache.bytes_per_token == 3 * 80 * 4
    engine.add_request([5] * 300, SamplingParams(max_tokens=3, ignore_eos=True))
    engine.step()
    assert engine.pages.num_held == 5  # 300 tokens, all layers together
    run(engine)
    engine.close()
