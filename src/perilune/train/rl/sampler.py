"""The plain policy: the trained network itself, all samples of a prompt as one batch.

It computes with the very weights that are trained (rounded ones in INT4 training), so the
log-probabilities of sampler and trainer agree to rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from perilune.model.cache import LatentCache
from perilune.model.model import KimiK2Model
from perilune.train.rl.rollout import Sample


class ModelPolicy:
    """`Policy` over a model in memory."""

    def __init__(self, model: KimiK2Model) -> None:
        self._model = model

    @torch.no_grad()
    def sample(
        self,
        prompt: Sequence[int],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> list[Sample]:
        model = self._model
        device = model.lm_head.weight.device
        generator = torch.Generator(device).manual_seed(seed % 2**63)
        longest = len(prompt) + max_tokens
        one = LatentCache(model.config, longest, device=device)
        hidden_BTD = model.hidden_states(torch.tensor([list(prompt)], device=device), cache=one)
        cache = LatentCache(model.config, longest, batch=samples, device=device)
        cache.storage[:, :, : len(prompt)] = one.storage[:, :, : len(prompt)]
        cache.advance(len(prompt))
        logits_BV = model.lm_head(hidden_BTD[:, -1]).expand(samples, -1)
        stops = torch.tensor(sorted(stop_ids), device=device)
        running_B = torch.ones(samples, dtype=torch.bool, device=device)
        ids: list[Tensor] = []
        logprobs: list[Tensor] = []
        while True:
            logprob_BV = logits_BV.float().log_softmax(-1)
            chosen_B1 = _draw(logits_BV, temperature, generator)
            ids.append(torch.where(running_B, chosen_B1.squeeze(1), -1))
            logprobs.append(logprob_BV.gather(1, chosen_B1).squeeze(1))
            running_B &= ~torch.isin(chosen_B1.squeeze(1), stops)
            if len(ids) == max_tokens or not running_B.any():
                break
            hidden_BTD = model.hidden_states(chosen_B1, cache=cache)
            logits_BV = model.lm_head(hidden_BTD[:, -1])
        table = torch.stack(ids, 1).tolist()
        values = torch.stack(logprobs, 1).tolist()
        finished = (~running_B).tolist()
        out = []
        for row, value, done in zip(table, values, finished, strict=True):
            length = row.index(-1) if -1 in row else len(row)
            out.append(Sample(row[:length], value[:length], done))
        return out


def _draw(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One id a row, [B, 1]; temperature 0 takes the best."""
    if temperature == 0:
        return logits_BV.argmax(-1, keepdim=True)
    probability_BV = (logits_BV.float() / temperature).softmax(-1)
    return torch.multinomial(probability_BV, 1, generator=generator)
