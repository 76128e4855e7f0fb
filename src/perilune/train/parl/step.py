"""A step of PARL: play groups of attempts as swarms, reward, compare within groups, step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perilune.agent.models.chat_model import ChatModel
from perilune.errors import UsageError
from perilune.swarm.reward import fade
from perilune.train.checkpoint import Progress
from perilune.train.config import StageConfig
from perilune.train.loop import Step
from perilune.train.optim.muon_clip import MuonClip
from perilune.train.parl.frozen import RememberedModel
from perilune.train.parl.metrics import step_metrics
from perilune.train.parl.rollout import Attempt, Rollouts
from perilune.train.parl.tasks import make_tasks
from perilune.train.replicas import Replicas
from perilune.train.rl.engine_policy import EnginePolicy
from perilune.train.rl.step import Rolled, compared, policy_step


@contextmanager
def parl_step(
    stage: StageConfig,
    optimizer: MuonClip,
    replicas: Replicas,
    tokenizer: str | Path | None,
    progress: Progress,
    *,
    worker: Path,
) -> Iterator[Step]:
    """Steps over the tasks of [parl], from where `progress` is; sub-agents are `worker`'s."""
    config = stage.parl
    if config is None:
        raise UsageError("parallel-agent reinforcement learning needs [parl]")
    model = optimizer.model
    place = None if tokenizer is None else Path(tokenizer)
    tasks = make_tasks(config, place, model.config.max_position_embeddings)
    frozen = RememberedModel(tasks.worker(worker))
    rollouts = Rollouts(tasks, frozen, config)

    def roll(indices: Sequence[int], temperature: float) -> Rolled:
        begin = time.monotonic()
        done = progress.step / stage.schedule.total_steps
        asked, computed = frozen.asked, frozen.computed

        async def play() -> tuple[list[list[Attempt]], int]:
            async with EnginePolicy(model, tasks.chat) as policy:
                await policy.warm(tasks.header)
                groups = await rollouts.groups(
                    policy, indices, temperature=temperature, progress=done
                )
                return groups, policy.tokens

        frozen.forget()
        groups, tokens = runner.run(play())
        seconds = time.monotonic() - begin
        attempts = [one for group in groups for one in group]
        values: dict[str, Any] = {
            "parl": step_metrics(groups),
            "solved": sum(one.episode.performance >= 1 for one in attempts) / len(attempts),
            "shaping": fade(done, config.reward.anneal),
            "attempts_per_second": len(attempts) / seconds,
            "sampled_per_second": tokens / seconds,
            "worker_completions": frozen.asked - asked,
            "worker_completions_computed": frozen.computed - computed,
        }
        return Rolled(
            [
                compared([one.trajectory for one in group], [one.terms.total for one in group],
                         config)
                for group in groups
            ],
            values,
        )  # fmt: skip

    with (
        asyncio.Runner() as runner,
        _open(runner, frozen),
        policy_step(stage, config, optimizer, replicas, tokenizer, progress, roll) as step,
    ):
        yield step


@contextmanager
def _open(runner: asyncio.Runner, model: ChatModel) -> Iterator[None]:
    runner.run(model.prepare())
    try:
        yield
    finally:
        runner.run(model.close())
