from __future__ import annotations

import pytest

from perilune.train.config import BalanceConfig, ScheduleConfig
from perilune.train.schedule import bias_rate, learning_rate_scale


def test_wsd_goes_up_stays_and_goes_down() -> None:
    config = ScheduleConfig(total_steps=100, warmup_steps=10, decay_steps=40, final=0.1)
    scales = [learning_rate_scale(config, step) for step in range(101)]
    assert scales[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert scales[10:60] == [1.0] * 50
    assert scales[79] == pytest.approx(0.55)
    assert scales[99] == scales[100] == pytest.approx(0.1)


def test_without_decay_the_rate_is_constant() -> None:
    config = ScheduleConfig(total_steps=5, warmup_steps=0)
    assert [learning_rate_scale(config, step) for step in range(9)] == [1.0] * 9


def test_bias_rates_change_at_their_fractions() -> None:
    config = BalanceConfig(bias_rates=((0.0, 3.0), (0.5, 1.0), (0.9, 0.0)))
    assert [bias_rate(config, s, 10) for s in (0, 4, 5, 8, 9)] == [3.0, 3.0, 1.0, 1.0, 0.0]
