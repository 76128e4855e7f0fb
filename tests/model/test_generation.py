"""Reference generation: stopping, sampling, streaming, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from perilune.errors import PeriluneError, UsageError
from perilune.model import KimiK2Model, LatentCache, generate
from perilune.model.attention import LatentAttention
from perilune.model.generation import sample
from tests.model.random_models import random_config, random_model


@pytest.fixture(scope="module")
def model() -> KimiK2Model:
    return random_model(random_config(3, max_position_embeddings=64), 3)


def test_greedy_is_the_argmax_of_whole_passes(model: KimiK2Model) -> None:
    ids = [5, 9, 2]
    got = generate(model, ids, max_tokens=10, prefill_chunk=2).token_ids
    for token in got:
        assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)


def test_stop_ids_and_streaming(model: KimiK2Model) -> None:
    free = generate(model, [1, 2], max_tokens=8)
    assert free.finish_reason == "length"
    seen: list[int] = []
    stop = free.token_ids[3]
    stopped = generate(model, [1, 2], max_tokens=8, stop_ids={stop}, on_token=seen.append)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1] == seen


def test_the_context_ends_the_generation(model: KimiK2Model) -> None:
    assert len(generate(model, [1] * 60, max_tokens=100).token_ids) == 4
    with pytest.raises(UsageError, match="64 tokens, but the model reads at most 64"):
        generate(model, [1] * 64)


def test_a_seed_repeats_and_no_seed_does_not(model: KimiK2Model) -> None:
    def run(seed: int | None) -> list[int]:
        return generate(model, [1], max_tokens=12, temperature=1.5, seed=seed).token_ids

    assert run(7) == run(7)
    assert len({tuple(run(seed)) for seed in (1, 2, None, None)}) == 4


def test_samples_follow_the_temperature() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -5.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([sample(logits, 0.7, 1.0, generator) for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / 4000
    torch.testing.assert_close(shares, (logits / 0.7).softmax(-1), atol=0.03, rtol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.15, 0.3, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def kept(top_p: float) -> set[int]:
        return {sample(logits, 1.0, top_p, generator) for _ in range(300)}

    assert kept(0.01) == {0}
    assert kept(0.49) == {0}
    assert kept(0.6) == {0, 2}
    assert kept(0.9) == {0, 2, 1}
    assert kept(1.0) == {0, 1, 2, 3}


def test_top_p_that_is_reached_exactly_is_enough() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {sample(torch.zeros(2), 1.0, 0.5, generator) for _ in range(50)} == {0}


def test_greedy_ties_go_to_the_lowest_id() -> None:
    assert sample(torch.tensor([0.0, 3.0, 3.0]), 0.0, 1.0, torch.Generator()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_ids": []}, "prompt is empty"),
        ({"prompt_ids": [10_000]}, "token id 10000 is outside"),
        ({"prompt_ids": [-1]}, "token id -1 is outside"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: KimiK2Model, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        generate(model, **{"prompt_ids": [1], **arguments})


def test_a_full_cache_says_so(model: KimiK2Model) -> None:
    cache = LatentCache(model.config, 4)
    with pytest.raises(UsageError, match="holds 4 tokens, 5 are needed"):
        model(torch.zeros(1, 5, dtype=torch.long), cache=cache)


def test_the_cache_keeps_the_latent_only() -> None:
    config = random_config(1)
    cache = LatentCache(config, 10)
    assert cache.storage.shape == (
        config.num_hidden_layers, 1, 10, config.kv_lora_rank + config.qk_rope_head_dim,
    )  # fmt: skip


@torch.inference_mode()
def test_bfloat16_runs_and_stays_near() -> None:
    config = random_config(4)
    model = random_model(config, 4)
    ids = torch.arange(20)[None]
    exact = model(ids)
    rough = model.to(torch.bfloat16)(ids)
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().mean() / exact.abs().max()) < 0.05


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(wrong: float) -> None:
    logits = torch.tensor([0.0, wrong, 1.0])
    for temperature in (0.0, 1.0):
        with pytest.raises(PeriluneError, match="not finite"):
            sample(logits, temperature, 1.0, torch.Generator())


def test_a_tiny_temperature_is_greedy() -> None:
    assert sample(torch.tensor([5.0, 90.0, -3.0]), 1e-310, 1.0, torch.Generator()) == 1


def test_the_prompt_is_expanded_and_the_answer_absorbed(
    model: KimiK2Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: list[str] = []
    for name in ("expanded", "absorbed"):
        form = getattr(LatentAttention, name)

        def spy(*arguments: Any, name: str = name, form: Any = form) -> Any:
            forms.append(name)
            return form(*arguments)

        monkeypatch.setattr(LatentAttention, name, spy)
    generate(model, [1, 2, 3], max_tokens=3)
    layers = model.config.num_hidden_layers
    assert forms == ["expanded"] * layers + ["absorbed"] * 2 * layers
