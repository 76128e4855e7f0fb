"""The objective of a step, a token at a time (Kimi K2.5's; arXiv 2507.20534, 3.2.2 for K2's).

    maximise  1/N sum over tokens of  [log ratio in (low, high)] * ratio * advantage
                                      - tau * (log ratio)^2

with ratio = pi / pi_sampler and N all generated tokens of the step. A token whose log ratio lies
outside passes no gradient, whatever the sign of its advantage. On the policy that sampled, ratio is
one, and this is REINFORCE with the group's mean as the baseline, which is the default here. The
advantage is the same for all tokens of a trajectory, and is not divided by a deviation: groups that
are nearly solved would be blown up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 10.0  # keeps exp finite where sampler and trainer disagree beyond reason


@dataclass(frozen=True, slots=True)
class ClipRange:
    """Log ratios that pass a gradient, and the weight of the squared log ratio."""

    low: float = -0.2
    high: float = 0.2
    tau: float = 1e-3


def token_loss(
    logprob_M: Tensor, sampler_logprob_M: Tensor, advantage_M: Tensor, total: int, clip: ClipRange
) -> tuple[Tensor, Tensor]:
    """-> the loss to minimise (its part of the sum over `total` tokens), and how many were masked.

    Tokens whose sampler log-probability is not finite are left out.
    """
    known_M = sampler_logprob_M.isfinite()
    sampler_logprob_M = torch.where(known_M, sampler_logprob_M, logprob_M.detach())
    log_ratio_M = (logprob_M - sampler_logprob_M).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    inside_M = (log_ratio_M > clip.low) & (log_ratio_M < clip.high)
    gain_M = torch.where(inside_M, log_ratio_M.exp() * advantage_M, 0.0)
    loss = (clip.tau * log_ratio_M.square() - gain_M)[known_M].sum() / max(total, 1)
    return loss, (~inside_M).sum()


def advantages(rewards: Sequence[float]) -> list[float] | None:
    """Reward minus the group's mean; None where all are equal and nothing can be learnt."""
    mean = sum(rewards) / len(rewards)
    if all(reward == rewards[0] for reward in rewards):
        return None
    return [reward - mean for reward in rewards]


def budgeted(reward: float, tokens: int, finished: bool, budget: int, penalty: float) -> float:
    """The reward under a token budget: what exceeds it, or was cut off, loses `penalty`."""
    return reward if finished and tokens <= budget else reward - penalty
