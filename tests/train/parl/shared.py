"""A swarm whose orchestrator says one token: an even one splits the task, an odd one does not.

What follows from the choice is a tape; swarm, budget, reward and training are the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.journal.memory_journal import MemoryJournal
from perilune.agent.models.chat_model import ChatModel, Message, Sampling
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.tool import tool
from perilune.chat.deltas import Delta
from perilune.events import Record
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import Swarm
from perilune.train.config import ParlConfig
from perilune.train.parl.tasks import SwarmTask, stratum_of
from perilune.train.rl.policy_model import AsyncPolicy
from perilune.train.rl.rollout import Trajectory
from tests.swarm.conftest import prompt_of, split, turn_of

RIGHT = "right"


@tool(side_effects=False, parallel_safe=True)
async def look(part: str) -> str:
    """Look a part up."""
    return part


class ChoiceTasks:
    """Tasks of `width` parts named p0, p1, ...; each is looked up in a turn of its own."""

    header = ()
    chat = None

    def __init__(self, config: ParlConfig, tokenizer: Path | None, *, longest: int) -> None:
        self._config = config

    def task(self, index: int) -> SwarmTask:
        stratum = stratum_of(self._config, index)
        parts = [f"p{i}" for i in range(stratum.width)]
        return SwarmTask(
            prompt=f"{stratum}: {' '.join(parts)}",
            stratum=stratum,
            serial_steps=stratum.width + 1,
            optimum=min(stratum.width + 1, 4),
            names=frozenset(parts),
            verify=lambda answer: float(answer == RIGHT),
        )

    def worker(self, folder: Path) -> ChatModel:
        assert (folder / "config.json").is_file()

        def tape(messages: Sequence[Any], declared: Sequence[Any]) -> Reply:
            part = prompt_of(messages)
            return _look(part) if turn_of(messages) == 0 else Reply(part)

        return ScriptedModel(tape)

    def orchestrator(
        self, policy: AsyncPolicy, *, max_tokens: int, temperature: float, seed: int
    ) -> Choice:
        return Choice(policy, temperature, seed)

    def swarm(
        self,
        task: SwarmTask,
        orchestrator: ChatModel,
        worker: ChatModel,
        *,
        home: Path,
        limits: SwarmLimits,
        on_record: Callable[[Record], None],
    ) -> Swarm:
        options: dict[str, Any] = {
            "home": home, "workspace": home, "verifiers": (), "snapshot": False, "context": "keep",
            "on_record": on_record, "open_journal": MemoryJournal,
        }  # fmt: skip
        worker_agent = Agent(worker, [look], sampling=Sampling(temperature=0.0), **options)
        return Swarm(
            Agent(orchestrator, [look], **options), worker=worker_agent, limits=limits,
            workspaces="empty", helpers=False,
        )  # fmt: skip


class Choice:
    """The orchestrator's model: its first turn is one sampled token, the rest follows from it."""

    name = endpoint = "choice"
    context_window = None

    def __init__(self, policy: AsyncPolicy, temperature: float, seed: int) -> None:
        self._policy, self._temperature, self._seed = policy, temperature, seed
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._tape = ScriptedModel(self._turn)

    async def prepare(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Any]) -> int | None:
        return None

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[Any], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        if not self._ids:
            width = len(prompt_of(messages).split()) - 1
            sample = await self._policy.sample(
                [width], max_tokens=1, temperature=self._temperature, stop_ids=(), seed=self._seed
            )
            self._ids, self._logprobs = [width, *sample.ids], sample.logprobs
        await asyncio.sleep(0.001)  # a model takes time, in which it can be interrupted
        async for delta in self._tape.complete(messages, tools, sampling):
            yield delta

    def trajectory(self, header: Sequence[int], answer: str) -> Trajectory:
        return Trajectory(self._ids, [False, True], self._logprobs, True, tuple(header), answer)

    def _turn(self, messages: Sequence[Any], declared: Sequence[Any]) -> Reply:
        parts = prompt_of(messages).split()[1:]
        turn = turn_of(messages)
        if self._ids[1] % 2 == 0:
            return split(*parts) if turn == 0 else Reply(RIGHT)
        return _look(parts[turn]) if turn < len(parts) else Reply(RIGHT)


def _look(part: str) -> Reply:
    return Reply(calls=[Call("look", {"part": part})])
