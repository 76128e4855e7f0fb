"""nano's tasks as an environment of reinforcement learning, played through the agent's own loop.

What is rolled out is what will be served: the same loop, tools, template and parser. The model's
part is a `PolicyModel` over the policy that is being trained.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perilune.agent.budgets import Budget
from perilune.chat.format import ChatFormat
from perilune.chat.tokenizer import Tokenizer
from perilune.config import Family
from perilune.errors import UsageError
from perilune.nano.agent import nano_agent
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.mixture import FAMILY_WEIGHTS, SIZES
from perilune.nano.training.render import Renderer
from perilune.train.rl.policy_model import OneByOne, PolicyModel
from perilune.train.rl.rollout import Policy, Trajectory
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split, weighted
from perilune.world.task import Task

MOST_STEPS = 8
_FIRST_SEED = 2**60  # far from the seeds of supervised training


class NanoTasks:
    """Tasks of generated worlds; the reward is the verdict of the task's own verifier.

    `families`: weights of the families of `perilune.world`, those of training where left out.
    """

    def __init__(
        self, seed: int, tokenizer: Path | None, *, families: dict[str, int] | None = None
    ) -> None:
        if tokenizer is None:
            raise UsageError("nano's tasks need a tokenizer", remedy="tokenizer = ... names it")
        vocabulary = Tokenizer.from_pretrained(tokenizer)
        self._chat = ChatFormat(vocabulary, Family.K25)
        self._header = tuple(Renderer(vocabulary).header)
        self._families = families or FAMILY_WEIGHTS
        self._first = _FIRST_SEED + seed * 2**32

    def task(self, index: int) -> Task:
        seed = Seed(Split.TRAIN, self._first + index)
        stream = seed.stream("task of reinforcement learning")
        family = weighted(stream, self._families)
        size = stream.pick(SIZES[family]) if family in SIZES else None
        return generate_task(seed, family, size=size)

    def rollouts(
        self,
        policy: Policy,
        index: int,
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Trajectory]:
        task = self.task(index)
        models = [
            PolicyModel(
                OneByOne(policy),
                self._chat,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed + number,
            )
            for number in range(samples)
        ]
        answers = asyncio.run(self._play(task, models))
        return [
            model.trajectory(self._header, answer)
            for model, answer in zip(models, answers, strict=True)
        ]

    def reward(self, index: int, trajectory: Trajectory) -> float:
        return float(self.task(index).verify(trajectory.answer).passed)

    async def _play(self, task: Task, models: Sequence[PolicyModel]) -> list[str]:
        answers = []
        with tempfile.TemporaryDirectory() as folder:
            for model in models:
                agent = nano_agent(
                    model, facts_of_seed(task.seed), workspace=folder, home=folder,
                    budget=Budget(steps=MOST_STEPS), verifiers=(),
                )  # fmt: skip
                answers.append((await agent.arun(task.prompt)).answer)
        return answers


def nano_environment(seed: int, tokenizer: Path | None, **options: Any) -> NanoTasks:
    """Options as in `NanoTasks`."""
    return NanoTasks(seed, tokenizer, **options)
