from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perilune.train.rl.objective import ClipRange, advantages, budgeted, token_loss


def test_on_policy_it_is_reinforce_with_a_baseline() -> None:
    logprob = torch.tensor([-1.0, -0.5, -2.0], requires_grad=True)
    advantage = torch.tensor([0.5, -0.25, 1.0])
    loss, masked = token_loss(logprob, logprob.detach(), advantage, 3, ClipRange(tau=0.7))
    loss.backward()
    assert masked == 0
    torch.testing.assert_close(logprob.grad, -advantage / 3)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("gap, masked", [(0.5, 1), (-0.5, 1), (0.1, 0)])
def test_far_ratios_pass_no_gain_whatever_the_sign(
    advantage: float, gap: float, masked: int
) -> None:
    """Only the squared log ratio pulls a token back that has left the range."""
    old = torch.tensor([-1.0])
    logprob = (old + gap).requires_grad_()
    clip = ClipRange(-0.2, 0.2, tau=0.01)
    loss, count = token_loss(logprob, old, torch.tensor([advantage]), 1, clip)
    loss.backward()
    pull = 2 * 0.01 * gap
    expected = pull - (0.0 if masked else advantage * torch.tensor(gap).exp().item())
    assert int(count) == masked
    assert logprob.grad is not None and float(logprob.grad) == pytest.approx(expected)


def test_tokens_without_a_sampler_probability_are_left_out() -> None:
    logprob = torch.tensor([-1.0, -1.0], requires_grad=True)
    old = torch.tensor([-torch.inf, -1.0])
    loss, _ = token_loss(logprob, old, torch.ones(2), 2, ClipRange())
    loss.backward()
    assert logprob.grad is not None and logprob.grad.tolist() == [0.0, -0.5]


def test_a_wild_ratio_stays_finite() -> None:
    logprob = torch.tensor([-1.0], requires_grad=True)
    loss, _ = token_loss(logprob, torch.tensor([-900.0]), torch.ones(1), 1, ClipRange())
    loss.backward()
    assert loss.isfinite() and logprob.grad is not None and logprob.grad.isfinite().all()


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=16))
def test_advantages_sum_to_zero_or_are_none(rewards: list[float]) -> None:
    gains = advantages(rewards)
    if len(set(rewards)) == 1:
        assert gains is None
    else:
        assert gains is not None and sum(gains) == pytest.approx(0.0, abs=1e-12)
        assert [a - b for a, b in zip(gains, rewards, strict=True)] == pytest.approx(
            [gains[0] - rewards[0]] * len(rewards)
        )


def test_the_token_budget_costs() -> None:
    assert budgeted(1.0, 10, True, 10, 0.2) == 1.0
    assert budgeted(1.0, 11, True, 10, 0.2) == 0.8
    assert budgeted(0.0, 5, False, 10, 0.2) == -0.2
