"""What a suite of questions is, and what becomes of a question that was put to a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any, Protocol

from perilune.agent.models.chat_model import ChatModel, Message, Sampling
from perilune.errors import UsageError
from perilune.events import Usage
from perilune.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Examinee:
    """The model that is examined, how it is sampled, and where foreign code runs."""

    model: ChatModel
    sampling: Sampling = field(default_factory=Sampling)
    sandbox: Sandbox | None = None
    max_steps: int = 60

    def where_code_runs(self) -> Sandbox:
        """The sandbox. The runner opens it for suites that need one."""
        if self.sandbox is None:
            raise UsageError("this suite runs code and needs a sandbox, and none was given")
        return self.sandbox


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a question was answered. `score` is 0 to 1; `passed` counts in the rate."""

    passed: bool
    score: float
    answer: str
    reason: str = ""
    messages: Sequence[Message] = ()
    tools: Sequence[dict[str, Any]] = ()
    steps: int = 1
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `put` puts it to a model and judges what comes."""

    id: str
    category: str
    put: Callable[[Examinee], Awaitable[Outcome]]


class Suite(Protocol):
    """A suite. `question` is a pure function of its arguments and of the package's version."""

    name: str
    about: str
    needs_sandbox: bool
    default_limit: int | None
    """Questions where no limit is given; None: all."""

    def version(self) -> str:
        """What was asked, for the report. Raises UsageError where a package is missing."""

    def categories(self) -> Sequence[str]:
        """All categories, those that are asked by default first."""

    def default_categories(self) -> Sequence[str]: ...

    def size(self, category: str) -> int | None:
        """How many questions there are; None where there is no end of them."""

    def question(self, category: str, index: int, seed: int) -> Question:
        """Question number `index`; the seed matters where questions are generated."""

    async def close(self) -> None:
        """Give back what putting questions opened."""


def require(package: str, install: str) -> str:
    """The version of a package that a suite needs. Raises UsageError with how to install it."""
    try:
        return package_version(package)
    except PackageNotFoundError:
        raise UsageError(
            f"this suite needs the package {package}, which is not installed",
            remedy=f"Run: pip install {install}",
        ) from None
