"""From logits to tokens: penalties, masks, temperature, truncation, and one random number a token.

The random number of a token comes from a counter: (seed, position of the token in the answer).
Nothing else goes into it, so the same request gives the same text alone or in any batch, and a
token checked by speculation is the very token that would have been sampled without it.

Shape suffixes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perilune.chat.deltas import TokenLogprob
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import RequestError

# Top-p sorts only tokens above this probability, where they suffice; they mostly do.
LIKELY = 1e-5
Probabilities = NDArray[np.float32]
_MASK64 = 2**64 - 1


@dataclass(slots=True)
class SampleRow:
    """What one row of logits is sampled with. `counts` are the output tokens before it."""

    params: SamplingParams
    seed: int
    position: int  # of the token to pick, counted from the first output token
    counts: Mapping[int, int] = field(default_factory=dict)
    prompt_tokens: frozenset[int] = frozenset()  # only for the repetition penalty
    allowed: Tensor | None = None  # bool [V], or None: everything
    banned: Sequence[int] = ()  # yields to `allowed` when nothing else is left


@dataclass(frozen=True, slots=True)
class Sampled:
    token: int
    logprob: TokenLogprob | None = None


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the two alone: SplitMix64 (Steele et al., 2014)."""
    return (_mix(_mix(seed & _MASK64) ^ position) >> 11) * 2.0**-53


def derive_seed(seed: int, index: int) -> int:
    """The seed of answer `index` of a request; the first answer has the seed itself."""
    return seed & _MASK64 if index == 0 else _mix((seed & _MASK64) ^ _mix(index))


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


@torch.inference_mode()
def sample(
    logits_RV: Tensor,
    rows: Sequence[SampleRow],
    *,
    known: int | None = None,
    never: Sequence[int] = (),
) -> list[Sampled | RequestError]:
    """One token a row from float32 logits. A row that cannot be sampled gives an error instead.

    `logits_RV` is changed in place. Each row's result depends on that row alone. Ids from `known`
    on have no text and are left out. The ids `never` are what the model may not say, whatever it
    thinks of them: its log probabilities stay as they are.
    """
    if known is not None and known < logits_RV.shape[1]:
        logits_RV[:, known:] = -torch.inf
    logprobs = [_logprobs(logits_RV[r], row) for r, row in enumerate(rows)]
    if never:
        logits_RV[:, list(never)] = -torch.inf
    picked, healthy = _likeliest(logits_RV)
    changed = [
        r for r, row in enumerate(rows) if not _stands(row, picked[r] if healthy[r] else None)
    ]
    if changed:
        for r in changed:
            _adjust(logits_RV[r], rows[r])
        adjusted_RV = logits_RV if len(changed) == len(rows) else logits_RV[changed]
        for r, token, well in zip(changed, *_likeliest(adjusted_RV), strict=True):
            picked[r], healthy[r] = token, well
    drawn = [r for r, row in enumerate(rows) if healthy[r] and not row.params.greedy]
    for r, token in zip(drawn, _draw(logits_RV, rows, drawn), strict=True):
        picked[r] = token
    results: list[Sampled | RequestError] = []
    for r, token in enumerate(picked):
        if not healthy[r]:
            results.append(
                RequestError(
                    "the model's output is not a number",
                    remedy="Run `perilune doctor`; the weights or a kernel may be damaged",
                )
            )
            continue
        values = logprobs[r]
        results.append(Sampled(token, None if values is None else _logprob(values, token, rows[r])))
    return results


def _likeliest(logits_RV: Tensor) -> tuple[list[int], list[bool]]:
    """The largest of each row, the first of equals, and whether it is a number."""
    tokens = logits_RV.argmax(dim=-1)
    best = logits_RV.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), best.isfinite().tolist()  # a NaN anywhere in the row is its maximum


def _stands(row: SampleRow, likeliest: int | None) -> bool:
    """Whether the likeliest token is the one to pick, whatever a mask takes from the others."""
    params = row.params
    if row.banned or params.logit_bias or params.penalises:
        return False
    if row.allowed is None:
        return True
    return params.greedy and likeliest is not None and bool(row.allowed[likeliest])


def _adjust(logits_V: Tensor, row: SampleRow) -> None:
    """Bias, penalties and masks, in place."""
    params = row.params
    if params.logit_bias:
        index = torch.tensor(list(params.logit_bias))
        logits_V[index] += torch.tensor(list(params.logit_bias.values()))
    if params.repetition_penalty != 1.0 and (row.counts or row.prompt_tokens):
        index = torch.tensor(sorted(row.prompt_tokens.union(row.counts)))
        values = logits_V[index]
        penalty = params.repetition_penalty
        logits_V[index] = torch.where(values > 0, values / penalty, values * penalty)
    if (params.presence_penalty or params.frequency_penalty) and row.counts:
        index = torch.tensor(list(row.counts))
        counts = torch.tensor(list(row.counts.values()), dtype=torch.float32)
        logits_V[index] -= params.presence_penalty + params.frequency_penalty * counts
    if row.allowed is not None:
        logits_V.masked_fill_(~row.allowed, -torch.inf)
    if row.banned:
        index = torch.tensor(list(row.banned))
        kept = logits_V[index]
        logits_V[index] = -torch.inf
        if logits_V.max() == -torch.inf:  # a grammar that allows nothing but the end
            logits_V[index] = kept


def _draw(logits_RV: Tensor, rows: Sequence[SampleRow], drawn: Sequence[int]) -> list[int]:
    """Sample the rows `drawn` by their random numbers."""
    if not drawn:
        return []
    # Smaller ones are greedy anyway, and 1e-46 is 0 in float32.
    temperature = torch.tensor([max(rows[r].params.temperature, 1e-30) for r in drawn])
    chosen_RV = logits_RV[list(drawn)]
    # Shifted first, so that a temperature near 0 divides nothing but 0 at the likeliest token.
    chosen_RV -= chosen_RV.amax(dim=-1, keepdim=True)
    probability_RV = (chosen_RV / temperature[:, None]).softmax(dim=-1).numpy()
    tokens = []
    for r, probability_V in zip(drawn, probability_RV, strict=True):
        least = _least_probability(probability_V, rows[r].params)
        if least > 0:
            probability_V = np.where(probability_V >= least, probability_V, 0)
        running_V = np.cumsum(probability_V, dtype=np.float64)
        number = uniform(rows[r].seed, rows[r].position) * running_V[-1]
        token = int(np.searchsorted(running_V, number, side="right"))
        if token == len(running_V):  # rounding at the very end
            token = int(np.flatnonzero(probability_V)[-1])
        tokens.append(token)
    return tokens


def _least_probability(probability_V: Probabilities, params: SamplingParams) -> float:
    """The probability below which top-k, top-p or min-p drop a token; equals stay together."""
    least = 0.0
    if 0 < params.top_k < len(probability_V):
        least = float(np.partition(probability_V, -params.top_k)[-params.top_k])
    if params.top_p < 1:
        kept = probability_V[probability_V >= least]
        target = params.top_p * kept.sum(dtype=np.float64)
        likely = kept[kept > LIKELY]
        if likely.sum(dtype=np.float64) < target:
            likely = kept
        best_first = np.sort(likely)[::-1]
        needed = int(np.searchsorted(np.cumsum(best_first, dtype=np.float64), target))
        least = max(least, float(best_first[min(needed, len(best_first) - 1)]))
    if params.min_p:
        least = max(least, params.min_p * float(probability_V.max()))
    return least


def _logprobs(logits_V: Tensor, row: SampleRow) -> Tensor | None:
    """Log probabilities of the model itself, before anything is adjusted."""
    return None if row.params.logprobs is None else logits_V.log_softmax(dim=-1)


@torch.inference_mode()
def score_tokens(
    logits_RV: Tensor, tokens: Sequence[int], top: int, *, known: int | None = None
) -> list[TokenLogprob]:
    """Log probabilities of `tokens` under the first rows of the logits, and the `top` likeliest."""
    logits_RV = logits_RV[: len(tokens)].clone()
    if known is not None:
        logits_RV[:, known:] = -torch.inf
    values_RV = logits_RV.log_softmax(dim=-1)
    return [
        _scored(values_V, token, top) for values_V, token in zip(values_RV, tokens, strict=True)
    ]


def _logprob(values_V: Tensor, token: int, row: SampleRow) -> TokenLogprob:
    return _scored(values_V, token, row.params.logprobs or 0)


def _scored(values_V: Tensor, token: int, count: int) -> TokenLogprob:
    top: tuple[tuple[int, float], ...] = ()
    if count:
        best = values_V.topk(min(count, values_V.shape[0]))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(values_V[token]), top)
