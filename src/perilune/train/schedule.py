"""How the learning rate goes: warm-up, stable, decay (WSD, arXiv 2404.06395), or constant."""

from __future__ import annotations

from perilune.train.config import BalanceConfig, ScheduleConfig


def learning_rate_scale(config: ScheduleConfig, step: int) -> float:
    """Factor on the learning rates in step `step` (from 0): linear up, one, linear down.

    After the last step it stays at `final`.
    """
    scale = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    begin = config.total_steps - config.decay_steps
    if config.decay_steps and step >= begin:
        done = min((step + 1 - begin) / config.decay_steps, 1.0)
        scale = min(scale, 1.0 + (config.final - 1.0) * done)
    return scale


def bias_rate(config: BalanceConfig, step: int, total_steps: int) -> float:
    """How far a router bias moves in step `step`: the rate of the latest fraction reached."""
    rate = 0.0
    for begin, value in config.bias_rates:
        if step >= begin * total_steps:
            rate = value
    return rate
