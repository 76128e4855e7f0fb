"""The sampler agrees with the trainer, and a short run of the whole stage raises the reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from perilune.errors import UsageError
from perilune.train.batch import collate
from perilune.train.config import RlConfig, read_run_config
from perilune.train.metrics import read_metrics
from perilune.train.network import Measured, token_losses
from perilune.train.rl.copy_task import copy_environment
from perilune.train.rl.rollout import Trajectory, make_environment
from perilune.train.rl.sampler import ModelPolicy
from perilune.train.rl.step import policy_batches, roll_out
from perilune.train.stages.stage import train_stage
from tests.train.shared import small_model

CONFIG = """
seed = 1
replicas = 1
[model]
vocab_size = 264
hidden_size = 32
num_hidden_layers = 2
intermediate_size = 64
moe_intermediate_size = 32
n_routed_experts = 4
num_experts_per_tok = 2
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 8
[stages.pretrain]
tokens_per_step = 400
optim = {lr = 0.01, adamw_lr = 0.02}
schedule = {total_steps = 22, warmup_steps = 5}
data = {workers = 0, sources = [{name = "copy", options = OPTIONS}]}
[stages.rl]
start_from = "pretrain"
optim = {lr = 0.003, adamw_lr = 0.003}
schedule = {total_steps = STEPS, warmup_steps = 0}
balance = {bias_rates = [[0.0, 0.0]]}
data = {workers = 0, sources = [{name = "copy", options = OPTIONS}]}
[stages.rl.rl]
environment = "copy"
options = OPTIONS
groups_per_step = 8
samples = 8
max_tokens = 4
temperatures = [1.0, 1.0]
ptx_weight = PTX
ptx_tokens = 64
""".replace("OPTIONS", "{vocabulary = 4, shortest = 1, longest = 2}")


def test_log_probabilities_of_sampler_and_trainer_agree() -> None:
    model = small_model()
    environment = copy_environment(0, None, vocabulary=30, header=4)
    trajectories = environment.rollouts(
        ModelPolicy(model), 5, samples=6, max_tokens=7, temperature=1.0, seed=3
    )
    assert len({tuple(one.ids) for one in trajectories}) > 1
    batch = collate([one.document() for one in trajectories])
    nll_M, _ = token_losses(model, batch, Measured())
    sampled = torch.tensor([p for one in trajectories for p in one.logprobs])
    torch.testing.assert_close(-nll_M.detach(), sampled, atol=1e-5, rtol=1e-5)
    again = environment.rollouts(
        ModelPolicy(model), 5, samples=6, max_tokens=7, temperature=1.0, seed=3
    )
    assert again == trajectories


def test_sampling_stops_at_the_stop_and_at_the_limit() -> None:
    policy = ModelPolicy(small_model())
    options: dict[str, Any] = {"samples": 40, "max_tokens": 9, "temperature": 1.5, "seed": 0}
    samples = policy.sample([1, 2, 3], stop_ids=range(20), **options)
    for one in samples:
        assert len(one.ids) == len(one.logprobs) <= 9
        assert not any(i < 20 for i in one.ids[:-1])
        assert one.finished == (one.ids[-1] < 20)
    assert {one.finished for one in samples} == {True, False} or len(samples[0].ids) < 9
    greedy = policy.sample([1, 2, 3], stop_ids=(), **(options | {"temperature": 0.0}))
    assert all(one.ids == greedy[0].ids for one in greedy)


def test_losses_meet_their_trajectories() -> None:
    """Whatever the order in the micro-batches, each token meets its own advantage."""
    model = small_model()
    rl = RlConfig(environment="copy", samples=6, max_tokens=5, seed=1)
    environment = make_environment("copy", 1, None, {"vocabulary": 30})
    groups = [roll_out(environment, ModelPolicy(model), rl, i, 1.0) for i in range(4)]
    attempts = [one for group in groups for one in group.trajectories]
    learnt = [(one, float(i % 5) - 1.5) for i, one in enumerate(attempts)]
    batches, losses = policy_batches(learnt, rl, 40, 2)
    assert len(batches) > 1
    total = 0.0
    for batch, loss in zip(batches, losses, strict=True):
        total += float(loss(token_losses(model, batch, Measured())[0]).detach())
        assert loss.largest < 1e-4 and loss.masked == 0  # the sampler is the trainer
    tokens = sum(one.tokens for one, _ in learnt)
    # On policy each ratio is one, so the loss is minus the mean advantage over tokens.
    expected = -sum(gain * one.tokens for one, gain in learnt) / tokens
    assert total == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("ptx", [0.0, 0.1])
def test_the_stage_raises_the_reward(tmp_path: Path, ptx: float) -> None:
    steps = 2 if ptx else 30  # the reward alone must do it
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.replace("STEPS", str(steps)).replace("PTX", str(ptx)))
    config = read_run_config(file)
    train_stage(config, "pretrain")
    train_stage(config, "rl")
    metrics = list(read_metrics(tmp_path / "run" / "rl" / "metrics.jsonl"))
    assert [m["step"] for m in metrics] == list(range(1, steps + 1))
    assert all(m.get("largest_log_ratio", 0.0) < 1e-3 for m in metrics)
    if not ptx:
        first, last = ([m["reward"] for m in part] for part in (metrics[:6], metrics[-6:]))
        assert sum(last) / 6 > sum(first) / 6 + 0.1


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="no environment 'cpoy'"):
        make_environment("cpoy", 0, None, {})
    with pytest.raises(UsageError, match="2 generated and 1 log"):
        Trajectory([1, 2, 3], [False, True, True], [-1.0])
