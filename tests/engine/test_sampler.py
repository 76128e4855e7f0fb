"""Sampling against the definitions, computed plainly; and what makes it the same in any batch."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.engine.sampler import Sampled, SampleRow, derive_seed, sample, uniform
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import RequestError

V = 40


def logits_of(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (rows, V)).astype(np.float32))


def pick(logits: torch.Tensor, row: SampleRow) -> int:
    (result,) = sample(logits.clone(), [row])
    assert isinstance(result, Sampled)
    return result.token


def nucleus(probabilities: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """The definitions, one after the other, over sorted tokens."""
    order = np.argsort(-probabilities)
    if top_k:
        order = order[:top_k]
    kept, mass, total = [], 0.0, probabilities[order].sum()
    for token in order:
        if mass >= top_p * total - 1e-9:
            break
        kept.append(token)
        mass += probabilities[token]
    kept = [t for t in kept if probabilities[t] >= min_p * probabilities.max() - 1e-12]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result / result.sum()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000), st.sampled_from([0, 1, 3, 15, 60]), st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([0.3, 1.0, 2.0]),
)  # fmt: skip
def test_the_distribution_is_the_one_asked_for(
    seed: int, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    """Through the inverse: every token gets the length of [0, 1) that is its probability."""
    logits = logits_of(seed)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    wide = np.exp((logits[0].double().numpy() - logits.max().item()) / temperature)
    expected = nucleus(wide / wide.sum(), top_k, top_p, min_p)
    draws = 2000
    counts = collections.Counter(
        pick(logits, SampleRow(params, seed=9, position=i)) for i in range(draws)
    )
    for token in range(V):
        if expected[token] == 0:
            assert counts[token] == 0
        else:
            error = 5 * math.sqrt(expected[token] * (1 - expected[token]) / draws) + 2 / draws
            assert abs(counts[token] / draws - expected[token]) < error


def test_greedy_ignores_truncation_and_takes_the_lowest_of_equals() -> None:
    logits = torch.zeros(1, V)
    logits[0, [7, 30]] = 3.0
    row = SampleRow(SamplingParams(temperature=0, top_p=0.1, top_k=1), seed=1, position=0)
    assert pick(logits, row) == 7


def test_a_temperature_near_zero_is_greedy() -> None:
    logits = logits_of(3) * 1000
    row = SampleRow(SamplingParams(temperature=1e-30), seed=1, position=0)
    assert pick(logits, row) == int(logits.argmax())


def test_a_row_does_not_depend_on_its_batch() -> None:
    logits = logits_of(5, rows=6)
    params = [
        SamplingParams(temperature=t, top_p=p, top_k=k)
        for t, p, k in [(1, 1, 0), (0, 1, 0), (0.7, 0.9, 0), (1.3, 1, 4), (1, 0.5, 20), (2, 1, 0)]
    ]
    rows = [SampleRow(p, seed=i, position=i) for i, p in enumerate(params)]
    together = sample(logits.clone(), rows)
    alone = [sample(logits[i : i + 1].clone(), [row])[0] for i, row in enumerate(rows)]
    assert together == alone


def test_the_random_numbers_are_uniform_and_counted() -> None:
    numbers = np.array([uniform(seed, position) for seed in range(100) for position in range(100)])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(numbers.var() - 1 / 12) < 0.005
    assert len(set(numbers.tolist())) == len(numbers)
    assert uniform(3, 4) == uniform(3 + 2**64, 4) != uniform(4, 3)
    assert derive_seed(5, 0) == 5
    assert len({derive_seed(5, i) for i in range(100)}) == 100


def test_penalties_follow_their_definitions() -> None:
    """OpenAI's presence and frequency penalties; the repetition penalty of arXiv 1909.05858."""
    logits = logits_of(8)
    counts, prompt = {3: 2, 11: 1}, frozenset({11, 20})
    params = SamplingParams(
        temperature=0, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5,
        logit_bias={4: 1.5}, logprobs=V,
    )  # fmt: skip
    expected = logits[0].clone()
    expected[4] += 1.5
    for token in (3, 11, 20):
        expected[token] = expected[token] / 1.5 if expected[token] > 0 else expected[token] * 1.5
    for token, count in counts.items():
        expected[token] -= 0.5 + 0.25 * count
    row = SampleRow(params, seed=1, position=3, counts=counts, prompt_tokens=prompt)
    given = logits.clone()
    (result,) = sample(given, [row])
    torch.testing.assert_close(given[0], expected)
    assert isinstance(result, Sampled) and result.token == int(expected.argmax())
    # Log probabilities are the model's own, not those after penalties.
    assert result.logprob is not None
    plain = logits[0].log_softmax(-1)
    assert result.logprob.logprob == pytest.approx(float(plain[result.token]))
    assert dict(result.logprob.top) == pytest.approx(dict(enumerate(plain.tolist())))


def test_masks_hold_and_bans_yield_to_them() -> None:
    logits = logits_of(2)
    allowed = torch.zeros(V, dtype=torch.bool)
    allowed[[5, 6]] = True
    params = SamplingParams(temperature=1.0)
    seen = {pick(logits, SampleRow(params, 1, i, allowed=allowed, banned=(5,))) for i in range(50)}
    assert seen == {6}
    allowed[6] = False
    assert pick(logits, SampleRow(params, 1, 0, allowed=allowed, banned=(5,))) == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_row_fails_alone(bad: float, temperature: float) -> None:
    logits = logits_of(1, rows=3)
    logits[1, 8] = bad
    rows = [SampleRow(SamplingParams(temperature=temperature), 1, i) for i in range(3)]
    results = sample(logits, rows)
    assert isinstance(results[1], RequestError)
    assert isinstance(results[0], Sampled) and isinstance(results[2], Sampled)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 5e-324}, {"temperature": 1e-40, "top_p": 5e-324},
        {"temperature": 0, "repetition_penalty": 0.01},
        {"temperature": 1e-320, "repetition_penalty": 10.0, "min_p": 5e-324},
    ],
)  # fmt: skip
def test_the_smallest_numbers_still_pick_a_token(params: dict[str, float]) -> None:
    logits = logits_of(3)
    logits[0, :5] = -torch.inf
    row = SampleRow(SamplingParams(**params), 1, 0, {1: 2}, frozenset({2, 9}))
    (sampled,) = sample(logits.clone(), [row])
    assert isinstance(sampled, Sampled)
    if "repetition_penalty" not in params:
        assert sampled.token == int(logits[0].argmax())


def test_no_rows() -> None:
    assert sample(torch.zeros(0, V), []) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", "hot"), ("top_p", 0), ("top_p", 1.1), ("top_k", -1),
        ("min_p", 2), ("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0),
        ("repetition_penalty", 5e-324),
        ("max_tokens", 0), ("min_tokens", -1), ("n", 0), ("n", True), ("stop", [""]),
        ("logit_bias", {1: math.nan}), ("logprobs", -1), ("thinking_budget", -1),
        ("temperature", math.nan),
    ],
)  # fmt: skip
def test_bad_params_name_the_field(field: str, value: object) -> None:
    with pytest.raises(RequestError) as error:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert error.value.param == field


def test_params_are_checked_together_and_against_the_vocabulary() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        SamplingParams(min_tokens=5, max_tokens=4)
    with pytest.raises(RequestError, match="vocabulary"):
        SamplingParams(stop_token_ids=(99,)).validate_for(50)
    assert SamplingParams(stop="x").stop == ("x",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]
