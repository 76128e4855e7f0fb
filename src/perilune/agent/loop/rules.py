"""What the loop asks of an agent: the model, the tools and the rules that a run works under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from perilune.agent.budgets import Budget
    from perilune.agent.checks.check import Check, Verifier
    from perilune.agent.journal.memory_journal import MemoryJournal
    from perilune.agent.loop.run import Listener
    from perilune.agent.models.chat_model import ChatModel, Sampling
    from perilune.agent.models.retry import RetryPolicy
    from perilune.agent.permissions.permissions import Approver, Permissions
    from perilune.agent.tool import Tool


class RunRules(Protocol):
    """`perilune.agent.agent.Agent` says what each of these means, and holds the defaults."""

    model: ChatModel
    tools: list[Tool]
    system_prompt: str
    workspace: Path
    budget: Budget
    sampling: Sampling
    permissions: Permissions
    approver: Approver | None
    verifiers: Sequence[Verifier | Check]
    context: str
    context_window: int | None
    retry: RetryPolicy
    sandbox: Any
    snapshot: bool
    home: Path
    on_record: Listener | None
    settings: dict[str, Any]
    name: str
    parent_run: str | None
    open_journal: Callable[[Path], MemoryJournal]

    @property
    def recipe_name(self) -> str:
        """Of the recipe that a run goes by; empty without one."""
        ...

    @property
    def works_on_copy(self) -> bool:
        """Whether runs change a copy of the workspace, which is applied when they succeed."""
        ...

    def copy_with(self, **changed: Any) -> Self:
        """The same rules with some attributes changed."""
        ...
