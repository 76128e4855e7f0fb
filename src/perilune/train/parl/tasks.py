"""What an orchestrator is trained on: tasks of known width, and how each is played as a swarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from perilune.agent.models.chat_model import ChatModel
from perilune.chat.format import ChatFormat
from perilune.errors import UsageError
from perilune.events import Record
from perilune.swarm.limits import SwarmLimits
from perilune.swarm.swarm import Swarm
from perilune.train.config import ParlConfig
from perilune.train.data.hashing import hash64
from perilune.train.rl.policy_model import AsyncPolicy
from perilune.train.rl.rollout import Trajectory

WIDEST = 12


@dataclass(frozen=True, slots=True)
class Stratum:
    """A kind of task that is counted by itself: `size` parts side by side, or steps in a row."""

    size: int
    deep: bool = False

    @property
    def width(self) -> int:
        return 1 if self.deep else self.size

    def __str__(self) -> str:
        return f"deep {self.size}" if self.deep else str(self.size)


@dataclass(frozen=True, slots=True)
class SwarmTask:
    """One task. `serial_steps` is what one agent alone takes, `optimum` the fewest critical steps.

    `names` are what the work that it can be split into must mention. `verify` gives item F1 of an
    answer, 1 only for a whole one. `source` is for whoever made the task.
    """

    prompt: str
    stratum: Stratum
    serial_steps: int
    optimum: int
    names: frozenset[str]
    verify: Callable[[str], float]
    source: Any = None


@runtime_checkable
class Orchestrator(ChatModel, Protocol):
    """The model of one attempt, which keeps what was sampled for it."""

    def trajectory(self, header: Sequence[int], answer: str) -> Trajectory: ...


class SwarmTasks(Protocol):
    """Tasks by index, each a pure function of it, and the swarm that plays one.

    `header` is what every prompt of the orchestrator begins with; `chat` is None where token ids
    are all that there is.
    """

    header: tuple[int, ...]
    chat: ChatFormat | None

    def task(self, index: int) -> SwarmTask: ...

    def worker(self, folder: Path) -> ChatModel:
        """The frozen sub-agents' model, of a checkpoint folder."""
        ...

    def orchestrator(
        self, policy: AsyncPolicy, *, max_tokens: int, temperature: float, seed: int
    ) -> Orchestrator: ...

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
        """A fresh swarm for one attempt; its runs lie in `home`, its model is `orchestrator`."""
        ...


# name -> where its maker is: (configuration, tokenizer, longest) -> SwarmTasks; `longest` is the
# most tokens that a conversation of the trained model may have.
SWARM_TASKS: dict[str, tuple[str, str]] = {
    "nano": ("perilune.nano.training.swarm_tasks", "NanoSwarm")
}


def make_tasks(config: ParlConfig, tokenizer: Path | None, longest: int) -> SwarmTasks:
    """The tasks that a configuration names. Raises UsageError."""
    if config.tasks not in SWARM_TASKS:
        raise UsageError(
            f"there are no tasks {config.tasks!r} for a swarm",
            remedy=f"Use one of {[*SWARM_TASKS]}",
        )
    if not config.widths or not all(1 <= width <= WIDEST for width in config.widths):
        raise UsageError(f"widths {list(config.widths)} are not numbers of 1 to {WIDEST}")
    if not all(2 <= depth <= 4 for depth in config.deep):
        raise UsageError(f"deep {list(config.deep)} are not numbers of 2 to 4 steps in a row")
    module, maker = SWARM_TASKS[config.tasks]
    return cast(
        SwarmTasks, getattr(import_module(module), maker)(config, tokenizer, longest=longest)
    )


def stratum_of(config: ParlConfig, index: int) -> Stratum:
    """Of which stratum task `index` is: all in turn, in another order each round."""
    strata = [Stratum(width) for width in config.widths]
    strata += [Stratum(depth, deep=True) for depth in config.deep]
    turn, place = divmod(index, len(strata))
    order = sorted(range(len(strata)), key=lambda i: hash64(hash64(config.seed, turn), i))
    return strata[order[place]]
