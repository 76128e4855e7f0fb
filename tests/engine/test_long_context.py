"""One request of 131,072 tokens: it completes, finds what was planted, and is the reference's."""

from __future__ import annotations

import pytest
import torch

from perilune.engine.llm import LLM
from perilune.engine.sampling_params import SamplingParams
from perilune.model.generation import generate

from .models import FORWARDS
from .planted_key import KEYS, planted_key_model, planted_key_prompt

GREEDY = SamplingParams(max_tokens=4, temperature=0, logprobs=128)


def check(
    length: int, key: int, forward: str, *, chunk: int, heads: int, tolerance: float = 1e-4
) -> None:
    """The engine's last tokens and their logits against the reference generator's."""
    prompt = planted_key_prompt(length, key)
    reference = planted_key_model(heads)
    said: list[torch.Tensor] = []
    reference.lm_head.register_forward_hook(lambda _, inputs, logits: said.append(logits))
    expected = generate(reference, prompt, max_tokens=4, prefill_chunk=128).token_ids
    assert expected[0] == key
    with LLM(
        planted_key_model(heads), exact=True, native=forward == "native", cache_tokens=length + 64,
        max_batch_tokens=chunk, max_sequences=1,
    ) as llm:  # fmt: skip
        (result,) = llm.generate([prompt], GREEDY)
        assert llm.engine.pages.num_held == 0
    assert result.answers[0].token_ids == expected
    assert len(said) == len(result.answers[0].logprobs) == 4
    for logits, entry in zip(said, result.answers[0].logprobs, strict=True):
        wanted = logits.log_softmax(dim=-1)
        assert len(entry.top) == 128
        assert max(abs(value - float(wanted[token])) for token, value in entry.top) < tolerance


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_planted_key_is_found_at_2048_tokens(forward: str) -> None:
    for key in (KEYS[0], KEYS[7]):
        check(2048, key, forward, chunk=300, heads=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("native" not in FORWARDS, reason="minutes with the C library, hours without")
def test_a_planted_key_is_found_at_131072_tokens() -> None:
    # One head: the reference alone takes minutes. Where no key is asked for, attention is a mean of
    # 131,072 values that cancel to 1/362 of their size, and float32 rounds on both sides.
    check(131_072, KEYS[3], "native", chunk=512, heads=1, tolerance=1e-3)
