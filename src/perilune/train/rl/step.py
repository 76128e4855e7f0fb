"""A step of reinforcement learning: roll out, reward, compare within groups, step.

Each task is attempted `samples` times by the current weights; an attempt's advantage is its reward
minus the mean of its group. Groups without a difference teach nothing: they are left out and
counted. A share of curated documents (PTX) keeps what was learnt before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perilune.errors import UsageError
from perilune.train.batch import RaggedBatch
from perilune.train.checkpoint import Progress
from perilune.train.config import RlConfig, RolloutConfig, StageConfig
from perilune.train.data.hashing import hash64
from perilune.train.data.stream import DocumentStream
from perilune.train.loop import Step
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.replicas import Replicas, TokenLoss
from perilune.train.rl.objective import ClipRange, advantages, budgeted, token_loss
from perilune.train.rl.rollout import Environment, Policy, Trajectory, make_environment
from perilune.train.rl.sampler import ModelPolicy
from perilune.train.steps import apply, count, draw, micro_batches, mixture_spec


@contextmanager
def rl_step(
    stage: StageConfig,
    optimizer: MuonClip,
    replicas: Replicas,
    tokenizer: str | Path | None,
    progress: Progress,
) -> Iterator[Step]:
    """Steps over the tasks of the stage's environment, from where `progress` is."""
    rl = stage.rl
    if rl is None:
        raise UsageError("reinforcement learning needs [rl]")
    place = None if tokenizer is None else Path(tokenizer)
    environment = make_environment(rl.environment, rl.seed, place, rl.options)
    policy = ModelPolicy(optimizer.model)

    def roll(tasks: Sequence[int], temperature: float) -> Rolled:
        return Rolled([roll_out(environment, policy, rl, i, temperature) for i in tasks], {})

    with policy_step(stage, rl, optimizer, replicas, tokenizer, progress, roll) as step:
        yield step


@contextmanager
def policy_step(
    stage: StageConfig,
    rl: RolloutConfig,
    optimizer: MuonClip,
    replicas: Replicas,
    tokenizer: str | Path | None,
    progress: Progress,
    roll: Roll,
) -> Iterator[Step]:
    """Steps over what `roll` brings. Raises UsageError where there is nothing to compare."""
    if rl.samples < 2 or rl.groups_per_step < 1:
        raise UsageError("reinforcement learning needs at least 1 group of 2 samples")
    spec = mixture_spec(stage.data, tokenizer)
    with DocumentStream(spec, start=progress.position, workers=stage.data.workers) as stream:

        def step() -> dict[str, Any]:
            begin = time.monotonic()
            temperature = _temperature(stage, rl, progress.step)
            tasks = range(progress.task, progress.task + rl.groups_per_step)
            rolled = roll(tasks, temperature)
            seconds = time.monotonic() - begin
            progress.task = tasks.stop
            learnt = [pair for group in rolled.groups for pair in group.learnt]
            batches, losses = policy_batches(learnt, rl, stage.micro_tokens, replicas.workers)
            ptx_batches, ptx_losses = _ptx(stream, stage, rl, replicas.workers)
            progress.position = stream.position
            values = _told(rolled.groups) | {"temperature": temperature, "sources": {}}
            if batches or ptx_batches:
                result = replicas.gradients(
                    [*batches, *ptx_batches], stage.balance.loss_factor, [*losses, *ptx_losses]
                )
                values |= apply(result, stage, optimizer, replicas, progress)
            else:  # all attempts of every group were equally good: there is nothing to learn
                progress.step += 1
                values["step"] = progress.step
            values |= count([*batches, *ptx_batches], progress, begin)
            values |= {
                "masked_tokens": sum(loss.masked for loss in losses),
                "largest_log_ratio": max((loss.largest for loss in losses), default=0.0),
                "seconds_rollouts": seconds,
            }
            return values | rolled.values

        yield step


@dataclass(frozen=True, slots=True)
class Group:
    """The attempts at one task: what each was worth, and what there is to learn from them."""

    trajectories: list[Trajectory]
    rewards: list[float]
    """As the environment gave them, before the token budget."""
    learnt: list[tuple[Trajectory, float]]
    """Attempts with their advantages; empty where all were equally good."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """The groups of a step, and what else there is to tell of it."""

    groups: list[Group]
    values: dict[str, Any]


Roll = Callable[[Sequence[int], float], Rolled]
"""Attempts these tasks at this temperature with the weights as they are."""


def roll_out(
    environment: Environment, policy: Policy, rl: RlConfig, index: int, temperature: float
) -> Group:
    """Attempt task `index` with the current policy."""
    trajectories = environment.rollouts(
        policy, index, samples=rl.samples, max_tokens=rl.max_tokens, temperature=temperature,
        seed=hash64(rl.seed, index),
    )  # fmt: skip
    rewards = [environment.reward(index, one) for one in trajectories]
    return compared(trajectories, rewards, rl)


def compared(trajectories: list[Trajectory], rewards: list[float], rl: RolloutConfig) -> Group:
    """The group of these attempts, with what each was better or worse than their mean."""
    kept = rewards
    if rl.token_budget is not None:
        kept = [
            budgeted(reward, one.tokens, one.finished, rl.token_budget, rl.budget_penalty)
            for reward, one in zip(rewards, trajectories, strict=True)
        ]
    gains = advantages(kept)
    learnt = [] if gains is None else list(zip(trajectories, gains, strict=True))
    learnt = [(one, gain) for one, gain in learnt if one.tokens]
    return Group(trajectories, rewards, learnt)


class PolicyLoss:
    """The loss of one micro-batch of trajectories, and what was seen while computing it."""

    def __init__(
        self, sampler_logprobs: list[float], gains: list[float], total: int, clip: ClipRange
    ) -> None:
        self._sampler_M, self._gain_M = torch.tensor(sampler_logprobs), torch.tensor(gains)
        self._total, self._clip = total, clip
        self.masked = 0
        self.largest = 0.0
        """Largest absolute difference of trainer's and sampler's log-probabilities."""

    def __call__(self, nll_M: Tensor) -> Tensor:
        device = nll_M.device
        sampler_M, gain_M = self._sampler_M.to(device), self._gain_M.to(device)
        loss, masked = token_loss(-nll_M, sampler_M, gain_M, self._total, self._clip)
        self.masked = int(masked)
        self.largest = float((sampler_M + nll_M.detach()).abs().max())
        return loss


def policy_batches(
    learnt: Sequence[tuple[Trajectory, float]], rl: RolloutConfig, micro_tokens: int, workers: int
) -> tuple[list[RaggedBatch], list[PolicyLoss]]:
    """Micro-batches of the attempts, and the loss of each, normalised by all generated tokens."""
    if not learnt:
        return [], []
    total = sum(one.tokens for one, _ in learnt)
    clip = ClipRange(rl.clip_low, rl.clip_high, rl.tau)
    documents = [one.document() for one, _ in learnt]
    of = {id(document): pair for document, pair in zip(documents, learnt, strict=True)}
    parts, batches = micro_batches(documents, micro_tokens, workers)
    losses = []
    for part in parts:
        logprobs: list[float] = []
        gains: list[float] = []
        for document in part:
            trajectory, gain = of[id(document)]
            logprobs += trajectory.logprobs
            gains += [gain] * trajectory.tokens
        losses.append(PolicyLoss(logprobs, gains, total, clip))
    return batches, losses


def _ptx(
    stream: DocumentStream, stage: StageConfig, rl: RolloutConfig, workers: int
) -> tuple[list[RaggedBatch], list[TokenLoss]]:
    if not rl.ptx_weight:
        return [], []
    documents, _ = draw(stream, rl.ptx_tokens, stage.data.max_tokens)
    _, batches = micro_batches(documents, stage.micro_tokens, workers)
    factor = rl.ptx_weight / max(sum(batch.trained for batch in batches), 1)
    return batches, [lambda nll_M: factor * nll_M.sum()] * len(batches)


def _temperature(stage: StageConfig, rl: RolloutConfig, step: int) -> float:
    """From the first to the last, linearly over the stage's steps."""
    first, last = rl.temperatures
    return first + (last - first) * min(step / max(stage.schedule.total_steps - 1, 1), 1.0)


def _told(groups: Sequence[Group]) -> dict[str, Any]:
    rewards = [reward for group in groups for reward in group.rewards]
    attempts = [one for group in groups for one in group.trajectories]
    return {
        "reward": sum(rewards) / len(rewards),
        "solved": sum(reward >= 1 for reward in rewards) / len(rewards),
        "groups_without_difference": sum(not group.learnt for group in groups),
        "generated_tokens": sum(one.tokens for one in attempts) / len(attempts),
        "unfinished": sum(not one.finished for one in attempts) / len(attempts),
    }
