"""nano's tasks as an environment of reinforcement learning, played through the agent's own loop.

What is rolled out is what will be served: the same loop, tools, template and parser. The model's
part is a `ChatModel` over the policy that is being trained; it keeps the ids of each completion, so
that nothing is encoded twice.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from perilune.agent.budgets import Budget
from perilune.agent.chat_model import Delta, Finished, Message, Sampling
from perilune.agent.models.engine import translate_delta
from perilune.agent.models.wire import to_wire
from perilune.agent.nano import nano_agent
from perilune.chat.deltas import Truncated
from perilune.chat.format import ChatFormat
from perilune.chat.tokenizer import Tokenizer
from perilune.config import Family
from perilune.errors import UsageError
from perilune.train.nano.facts import facts_of_seed
from perilune.train.nano.mixture import FAMILY_WEIGHTS, SIZES
from perilune.train.nano.render import Renderer
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
            _PolicyModel(policy, self._chat, max_tokens, temperature, seed + number)
            for number in range(samples)
        ]
        answers = asyncio.run(self._play(task, models))
        return [
            model.trajectory(self._header, answer)
            for model, answer in zip(models, answers, strict=True)
        ]

    def reward(self, index: int, trajectory: Trajectory) -> float:
        return float(self.task(index).verify(trajectory.answer).passed)

    async def _play(self, task: Task, models: Sequence[_PolicyModel]) -> list[str]:
        answers = []
        with tempfile.TemporaryDirectory() as folder:
            for model in models:
                agent = nano_agent(
                    model, facts_of_seed(task.seed), workspace=folder, home=folder,
                    budget=Budget(steps=MOST_STEPS), verifiers=(),
                )  # fmt: skip
                answers.append((await agent.arun(task.prompt)).answer)
        return answers


class _PolicyModel:
    """A `ChatModel` that samples from the policy, and keeps what it sampled."""

    name = "policy"
    endpoint = "policy"
    context_window = None

    def __init__(
        self, policy: Policy, chat: ChatFormat, max_tokens: int, temperature: float, seed: int
    ) -> None:
        self._policy, self._chat = policy, chat
        self._left, self._temperature, self._seed = max_tokens, temperature, seed
        self._ids: list[int] = []
        self._generated: list[bool] = []
        self._logprobs: list[float] = []
        self._whole = True

    async def prepare(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        return None

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        prompt = self._chat.encode(to_wire(messages), tools)
        if prompt[: len(self._ids)] != self._ids:
            # The template writes otherwise what was sampled; there is no honest continuation.
            self._whole = False
        if not self._whole or self._left <= 0:
            self._whole = False
            yield Finished("stop")
            return
        (sample,) = self._policy.sample(
            prompt,
            samples=1,
            max_tokens=self._left,
            temperature=self._temperature,
            stop_ids=self._chat.stop_ids,
            seed=self._seed + len(prompt),
        )
        self._left -= len(sample.ids)
        new = len(prompt) - len(self._ids)
        self._ids = [*prompt, *sample.ids]
        self._generated += [False] * new + [True] * len(sample.ids)
        self._logprobs += sample.logprobs
        parser = self._chat.parser(tools=tools)
        deltas = [delta for id_ in sample.ids for delta in parser.feed(id_)] + parser.finish()
        cut = not sample.finished
        for delta in deltas:
            cut = cut or isinstance(delta, Truncated)
            translated = translate_delta(delta)
            if translated is not None:
                yield translated
        self._whole = self._whole and sample.finished
        yield Finished("length" if cut else "stop")

    def trajectory(self, header: tuple[int, ...], answer: str) -> Trajectory:
        assert tuple(self._ids[: len(header)]) == header
        behind = len(header)
        return Trajectory(
            self._ids[behind:], self._generated[behind:], self._logprobs, self._whole, header,
            answer,
        )  # fmt: skip


def nano_environment(seed: int, tokenizer: Path | None, **options: Any) -> NanoTasks:
    """Options as in `NanoTasks`."""
    return NanoTasks(seed, tokenizer, **options)
