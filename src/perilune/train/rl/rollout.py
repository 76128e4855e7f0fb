"""What reinforcement learning is about: a policy that samples, an environment that rolls out and
rewards, and the trajectories between them.

`Policy` and `Environment` are protocols: the plain sampler of this package, the engine, or an agent
loop with real tools stand behind the one; a synthetic task or a generated world behind the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from perilune.errors import UsageError
from perilune.train.data.document import Document


@dataclass(frozen=True, slots=True)
class Sample:
    """A continuation: its ids (the stop id included), and the sampler's log-probability of each."""

    ids: list[int]
    logprobs: list[float]
    finished: bool
    """Whether a stop id ended it, not the token limit."""


class Policy(Protocol):
    """What continues token ids."""

    def sample(
        self,
        prompt: Sequence[int],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> list[Sample]:
        """`samples` independent continuations. The same seed and weights give the same ones."""
        ...


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One attempt at a task: all ids behind the header, and which of them the policy made.

    What tools, users and sub-agents said is in `ids` and never in the loss. `logprobs` has one
    entry for each generated id, in order.
    """

    ids: list[int]
    generated: list[bool]
    logprobs: list[float]
    finished: bool = True
    header: tuple[int, ...] = ()
    answer: str = ""

    def __post_init__(self) -> None:
        count = sum(self.generated)
        if len(self.ids) != len(self.generated) or count != len(self.logprobs):
            raise UsageError(
                f"a trajectory of {len(self.ids)} ids, {len(self.generated)} marks, {count} "
                f"generated and {len(self.logprobs)} log-probabilities"
            )

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return len(self.logprobs)

    def document(self) -> Document:
        """As a training document, loss on what was generated."""
        return Document(self.ids, self.generated, self.header, "rollouts")


class Environment(Protocol):
    """Tasks by index, each a pure function of it, with a reward that a program can check."""

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
        """`samples` attempts at task `index`; `max_tokens` bounds what an attempt generates."""
        ...

    def reward(self, index: int, trajectory: Trajectory) -> float:
        """0 to 1; 1 is right."""
        ...


# name -> where its maker is: (seed, tokenizer, **options) -> Environment.
ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "copy": ("perilune.train.rl.copy_task", "copy_environment"),
    "nano": ("perilune.nano.training.environment", "nano_environment"),
}


def make_environment(
    name: str, seed: int, tokenizer: Path | None, options: dict[str, Any]
) -> Environment:
    """The environment that a configuration names. Raises UsageError."""
    if name not in ENVIRONMENTS:
        raise UsageError(
            f"there is no environment {name!r}", remedy=f"Use one of {[*ENVIRONMENTS]}"
        )
    module, maker = ENVIRONMENTS[name]
    try:
        return cast(Environment, getattr(import_module(module), maker)(seed, tokenizer, **options))
    except TypeError as error:
        raise UsageError(f"the options of the environment {name!r}: {error}") from None
