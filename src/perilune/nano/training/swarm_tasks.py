"""nano's tasks for an orchestrator: tables of so many rows, single facts, chains of facts.

The swarm is the one that is served (`perilune.nano.swarm`), over the facts of the task's own world.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from perilune.agent.journal.memory_journal import MemoryJournal
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.agent.models.engine import EngineModel
from perilune.chat.format import ChatFormat
from perilune.chat.tokenizer import Tokenizer
from perilune.config import Family
from perilune.errors import UsageError
from perilune.events import Record
from perilune.nano.swarm import nano_swarm
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.render import orchestrator_renderer
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import Swarm
from perilune.train.config import ParlConfig
from perilune.train.parl.tasks import Stratum, SwarmTask, stratum_of
from perilune.train.rl.policy_model import AsyncPolicy, PolicyModel
from perilune.world.families import generate_task
from perilune.world.seed import Seed, Split
from perilune.world.table import Table
from perilune.world.task import Task

WORKER_CACHE = 65_536
"""Tokens of the sub-agents' latent cache."""
_FIRST_SEED = 2**62  # far from the seeds of supervised training


class NanoSwarm:
    """`SwarmTasks` of generated worlds."""

    chat: ChatFormat

    def __init__(self, config: ParlConfig, tokenizer: Path | None, *, longest: int) -> None:
        if tokenizer is None:
            raise UsageError("nano's tasks need a tokenizer", remedy="tokenizer = ... names it")
        vocabulary = Tokenizer.from_pretrained(tokenizer)
        self.chat = ChatFormat(vocabulary, Family.K25)
        self.header = tuple(orchestrator_renderer(vocabulary).header)
        self._config, self._longest = config, longest
        self._first = _FIRST_SEED + config.seed * 2**32

    def task(self, index: int) -> SwarmTask:
        stratum = stratum_of(self._config, index)
        seed = Seed(Split.TRAIN, self._first + index)
        if stratum.deep:
            task = generate_task(seed, "hops", size=stratum.size)
        elif stratum.size == 1:
            task = generate_task(seed, "lookup")
        else:
            task = generate_task(seed, "wide_table", size=stratum.size)
        return _swarm_task(task, stratum)

    def worker(self, folder: Path) -> ChatModel:
        return EngineModel.from_pretrained(folder, cache_tokens=WORKER_CACHE)

    def orchestrator(
        self, policy: AsyncPolicy, *, max_tokens: int, temperature: float, seed: int
    ) -> PolicyModel:
        return PolicyModel(
            policy, self.chat, max_tokens=max_tokens, temperature=temperature, seed=seed,
            longest=self._longest,
        )  # fmt: skip

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
        assert isinstance(task.source, Task)
        return nano_swarm(
            orchestrator, worker, facts_of_seed(task.source.seed), limits=limits,
            sampling=Sampling(max_tokens=self._config.max_tokens), home=home, workspace=home,
            verifiers=(), on_record=on_record, open_journal=MemoryJournal,
        )  # fmt: skip


def _swarm_task(task: Task, stratum: Stratum) -> SwarmTask:
    names, serial, optimum = task.world.entities.keys(), task.solution.serial_steps, None
    if isinstance(task.verifier, Table):
        # nano looks a cell up a turn, alone or as a sub-agent with one row.
        names, columns = task.verifier.rows.keys(), len(task.verifier.columns)
        serial, optimum = stratum.size * columns + 1, columns + 3
    return SwarmTask(
        prompt=task.prompt,
        stratum=stratum,
        serial_steps=serial,
        optimum=serial if optimum is None else min(serial, optimum),
        names=frozenset(names),
        verify=lambda answer: _score(task, answer),
        source=task,
    )


def _score(task: Task, answer: str) -> float:
    verdict = task.verify(answer)
    return 1.0 if verdict.passed else min(verdict.score, 0.999)
