"""Attempts of an orchestrator, played by the real swarm.

The orchestrator's turns are sampled from the policy in training; its sub-agents are frozen, have
contexts of their own, and nothing that they say is learnt from. An episode that exceeds its budget
of critical steps is cut off.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perilune.agent.models.chat_model import ChatModel
from perilune.errors import TrainingError
from perilune.events import Record
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.result import SwarmResult
from perilune.swarm.reward import Episode, Reward, critical_step_budget, episode_of, reward
from perilune.swarm.swarm import SwarmSession
from perilune.train.config import ParlConfig
from perilune.train.data.hashing import hash64
from perilune.train.parl.tasks import SwarmTask, SwarmTasks
from perilune.train.rl.policy_model import AsyncPolicy
from perilune.train.rl.rollout import Trajectory

AT_ONCE = 64
"""Attempts under way together; their sub-agents come on top."""
ENDINGS = ("done", "unverified", "repeat", "interrupted", "budget:")
"""How an attempt may end. Anything else is no fault of the orchestrator's."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a task, and what it was worth. `f1` is that of the answer, right or late."""

    task: SwarmTask
    trajectory: Trajectory
    episode: Episode
    terms: Reward
    f1: float
    cut_off: bool
    died: int
    """Sub-agents that ended with an error of model or code, which is a fault here."""


class Rollouts:
    """Plays tasks with sub-agents of the model `worker`."""

    def __init__(self, tasks: SwarmTasks, worker: ChatModel, config: ParlConfig) -> None:
        self._tasks, self._worker, self._config = tasks, worker, config

    async def groups(
        self, policy: AsyncPolicy, indices: Sequence[int], *, temperature: float, progress: float
    ) -> list[list[Attempt]]:
        """The attempts at each task, all of them side by side; `progress` (0 to 1) of training
        fades the reward's shaping. Raises TrainingError.
        """
        room = asyncio.Semaphore(AT_ONCE)
        config = self._config

        async def attempt(task: SwarmTask, seed: int, home: Path) -> Attempt:
            async with room:
                home.mkdir()
                return await self.attempt(
                    policy, task, temperature=temperature, progress=progress, seed=seed, home=home
                )

        with tempfile.TemporaryDirectory(prefix="perilune-parl-") as folder:
            async with asyncio.TaskGroup() as together:
                playing = []
                for index in indices:
                    task, seed = self._tasks.task(index), hash64(config.seed, index)
                    playing.append(
                        [
                            together.create_task(
                                attempt(task, hash64(seed, i), Path(folder) / f"{index}-{i}")
                            )
                            for i in range(config.samples)
                        ]
                    )
            return [[each.result() for each in group] for group in playing]

    async def attempt(
        self,
        policy: AsyncPolicy,
        task: SwarmTask,
        *,
        temperature: float,
        progress: float,
        seed: int,
        home: Path,
    ) -> Attempt:
        """Play a task once; its runs lie in `home`, an empty folder."""
        config, tasks = self._config, self._tasks
        width = task.stratum.width
        budget = critical_step_budget(width, task.optimum) if config.budget else None
        orchestrator = tasks.orchestrator(
            policy, max_tokens=config.max_tokens, temperature=temperature, seed=seed
        )
        referee = _Referee(budget)
        swarm = tasks.swarm(
            task, orchestrator, self._worker, home=home, on_record=referee,
            limits=SwarmLimits(
                main_steps=None, sub_agent_steps=config.worker_steps, tool_calls=None,
                sub_agents=config.sub_agents,
            ),
        )  # fmt: skip
        async with swarm.session() as session:
            referee.session = session
            result = await session.run(task.prompt)
            state = session.state
        if not result.reason.startswith(ENDINGS):
            raise TrainingError(
                f"an attempt at {task.prompt!r} ended by itself ({result.reason}): {result.detail}"
            )
        cut_off = budget is not None and state.critical_steps > budget
        f1 = _f1(task, result)
        worth = float(f1 >= 1) if config.performance == "exact" else f1
        episode = episode_of(
            state, 0.0 if cut_off else worth, width, names=task.names, cut_off=cut_off
        )
        return Attempt(
            task,
            orchestrator.trajectory(tasks.header, result.answer),
            episode,
            reward(episode, progress, config.reward),
            f1,
            cut_off,
            sum(each.status == "died" for each in state.assignments.values()),
        )


def _f1(task: SwarmTask, result: SwarmResult) -> float:
    return task.verify(result.answer) if result.answer.strip() else 0.0


class _Referee:
    """Counts an attempt's critical steps while it is played, and ends it when they are too many."""

    def __init__(self, budget: int | None) -> None:
        self._budget = budget
        self._ended = False
        self.session: SwarmSession | None = None

    def __call__(self, record: Record) -> None:
        if self.session is None or self._budget is None or self._ended:
            return
        if self.session.state.critical_steps > self._budget:
            self._ended = True
            self.session.interrupt("the critical steps of the task are spent")
