"""Reference generation: one request, one token after the other, nothing clever.

The yardstick for the engine, which must produce the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perilune.config import ModelConfig
from perilune.errors import PeriluneError, UsageError
from perilune.model.cache import LatentCache
from perilune.model.model import KimiK2Model

# Attention scores held at once while a prompt is read, in values.
MAX_SCORES = 2**26


@dataclass(frozen=True, slots=True)
class Generation:
    """The new token ids (a stop id, where one ended it, is the last) and why it ended."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


@torch.inference_mode()
def generate(
    model: KimiK2Model,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    on_token: Callable[[int], None] | None = None,
    prefill_chunk: int | None = None,
    pictures: Tensor | None = None,
) -> Generation:
    """Continue `prompt_ids` by at most `max_tokens` tokens.

    `temperature` 0 is greedy (ties to the lowest id). Otherwise sample from the smallest set of
    tokens whose probability reaches `top_p`; with a `seed` the same tokens come each time.
    `on_token` is called with each id as it is chosen. The prompt is read `prefill_chunk` tokens
    at a time; the default bounds the memory of its attention. `pictures`: the vectors of
    `KimiK2Model.encode_pictures`, for the placeholder tokens of the prompt. Raises UsageError.
    """
    config = model.config
    check_request(
        config, prompt_ids, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    max_tokens = min(max_tokens, config.max_position_embeddings - len(prompt_ids))
    weight = model.model.embed_tokens.weight
    cache = LatentCache(
        config, len(prompt_ids) + max_tokens, dtype=weight.dtype, device=weight.device
    )
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    if prefill_chunk is None:
        prefill_chunk = max(1, MAX_SCORES // (config.num_attention_heads * len(prompt_ids)))
    ids = torch.tensor([list(prompt_ids)], device=weight.device)
    media_id = None if model.vision is None else model.vision.media_token_id
    rest = pictures
    for chunk in torch.split(ids, prefill_chunk, dim=1):
        here = rest
        if rest is not None and cache.length + chunk.shape[1] < len(prompt_ids):
            # The last chunk gets all that are left, so that too many are refused there.
            here, rest = rest.tensor_split([sum(i == media_id for i in chunk[0].tolist())])
        hidden_BTD = model.hidden_states(chunk, cache=cache, pictures=here)
    chosen: list[int] = []
    while True:
        logits_V = model.lm_head(hidden_BTD[0, -1]).float().cpu()
        token = sample(logits_V, temperature, top_p, generator)
        chosen.append(token)
        if on_token is not None:
            on_token(token)
        if token in stop_ids:
            return Generation(chosen, "stop")
        if len(chosen) == max_tokens:
            return Generation(chosen, "length")
        hidden_BTD = model.hidden_states(torch.tensor([[token]], device=weight.device), cache=cache)


def sample(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token id from float32 logits [V]; see `generate` for the rule.

    Raises PeriluneError, for there is no token to choose where the logits are NaN or infinite.
    """
    if not logits_V.isfinite().all():
        raise PeriluneError(
            "the model's logits are not finite numbers",
            remedy="`perilune models verify DIR` checks the files; float32 rules out an overflow",
        )
    if temperature == 0:
        return int(logits_V.argmax())
    order_V = logits_V.sort(descending=True, stable=True)
    probability_V = ((order_V.values.double() - order_V.values[0]) / temperature).softmax(-1)
    before_V = probability_V.cumsum(-1) - probability_V
    probability_V[before_V >= top_p] = 0  # the first token always stays
    return int(order_V.indices[torch.multinomial(probability_V, 1, generator=generator)])


def check_request(
    config: ModelConfig,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None = None,
) -> None:
    """Raise UsageError where `generate` would. Needs no weights, so ask before loading them."""
    if not prompt_ids:
        raise UsageError("the prompt is empty", remedy="Give at least one")
    outside = [i for i in prompt_ids if not 0 <= i < config.vocab_size]
    if outside:
        raise UsageError(f"token id {outside[0]} is outside the vocabulary of {config.vocab_size}")
    if len(prompt_ids) >= config.max_position_embeddings:
        raise UsageError(
            f"the prompt has {len(prompt_ids)} tokens, but the model reads at most "
            f"{config.max_position_embeddings}",
            remedy="Shorten the prompt",
        )
    if max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; at least 1 is needed")
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"temperature is {temperature}; 0 (greedy) or more is needed")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise UsageError(f"the seed {seed} does not fit into 64 bits")
