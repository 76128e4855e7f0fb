"""A living run: its journal and state, what it may use, and how it stops.

Everything that happens goes through `append` (journal, state, listeners) or `show` (volatile:
listeners only).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perilune.agent.budgets import Budget
from perilune.agent.endings import BudgetExceeded, Interrupted
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.permissions.permissions import Approver, Permissions
from perilune.agent.pictures.part import Picture, pictures_of
from perilune.agent.pictures.store import PictureStore
from perilune.agent.tool import CancelToken
from perilune.events import Event, Record, ToolProgress, UserMessage, Verified, valid_event

if TYPE_CHECKING:
    from perilune.agent.checks.check import Check, Verifier
    from perilune.agent.context.manager import ContextManager
    from perilune.agent.journal.memory_journal import MemoryJournal
    from perilune.agent.journal.state import RunState
    from perilune.agent.tool_registry import ToolRegistry
    from perilune.agent.workspace.change_log import ChangeLog
    from perilune.agent.workspace.snapshot import SnapshotStore
    from perilune.agent.workspace.working_copy import WorkingCopy

T = TypeVar("T")
Listener = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Fallback:
    """The verified majority's answer, given when the merge of trajectories fails its checks."""

    answer: str
    verdict: Verified | None
    trajectory: int


@dataclass(slots=True)
class Run:
    """One run in this process. Made by `Agent`; driven by `loop.drive`.

    `workspace` is where tools work: the folder that the person named, or the `copy` of it. `others`
    are runs whose findings count as this one's (the trajectories that it merges).
    """

    journal: MemoryJournal
    state: RunState
    model: ChatModel
    tools: ToolRegistry
    context: ContextManager
    workspace: Path
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)
    permissions: Permissions = field(default_factory=Permissions)
    approver: Approver | None = None
    verifiers: Sequence[Verifier | Check] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    snapshots: SnapshotStore | None = None
    changes: ChangeLog | None = None
    copy: WorkingCopy | None = None
    others: Sequence[RunState] = ()
    fallback: Fallback | None = None
    sandbox: Any = None
    listeners: list[Listener] = field(default_factory=list)
    name: str = "main"
    cancel: CancelToken = field(default_factory=CancelToken)
    tool_state: dict[str, Any] = field(default_factory=dict)
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    pictures: PictureStore = field(init=False)
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.journal.now()
        self.pictures = PictureStore(self.folder)

    @property
    def id(self) -> str:
        return self.journal.run

    @property
    def folder(self) -> Path:
        return self.journal.folder

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def given(self) -> list[Picture]:
        """The pictures that persons gave, in order."""
        told = zip(self.state.messages, self.state.origins, strict=True)
        given = (message for message, origin in told if origin in ("task", "steer", "queue"))
        return [each for message in given for each in pictures_of(message.get("content"))]

    @property
    def seconds(self) -> float:
        """Wall time in which a process has worked on the current task."""
        return self.state.task_seconds + self.journal.now() - max(self.state.last_time, self._began)

    # --- events ---

    def append(self, *events: Event) -> None:
        """Give events to the journal, together with those staged before; then fold and tell.

        `durable` waits until they are on the disk. Raises `JournalFailed` when the journal cannot
        be written any more.
        """
        for record in self.journal.append(*events, agent=self.name):
            self.state.apply(record)
            self._tell(record)

    def stage(self, event: Event) -> None:
        """Fold and tell an event that becomes durable with the next `append`.

        For events that another one follows at once; it spares a disk flush.
        """
        record = self.journal.stage(event, agent=self.name)
        self.state.apply(record)
        self._tell(record)

    async def durable(self) -> None:
        """Wait until everything that happened so far is on the disk. Raises `JournalFailed`."""
        if self.journal.has_staged:
            self.append()
        await self.journal.durable()

    def show(self, event: Event) -> None:
        """Tell listeners of a volatile event."""
        event = valid_event(event)
        self._tell(Record(event=event, run=self.id, time=self.journal.now(), agent=self.name))

    def say(self, text: str, source: Any = "house") -> None:
        """Words of Perilune's own for the model."""
        self.append(UserMessage(content=text, source=source))

    def _tell(self, record: Record) -> None:
        for listener in self.listeners:
            listener(record)

    # --- stopping ---

    def check_budget(self) -> None:
        """Raise `BudgetExceeded` when the next step may not begin."""
        self.budget.check(
            steps=self.state.task_steps, usage=self.state.task_usage, seconds=self.seconds
        )

    @property
    def may_go_on(self) -> bool:
        """Whether the budget has room for another step."""
        try:
            self.check_budget()
        except BudgetExceeded:
            return False
        return True

    @property
    def seconds_left(self) -> float | None:
        return None if self.budget.seconds is None else self.budget.seconds - self.seconds

    async def guarded(self, work: Awaitable[T]) -> T:
        """Await `work`, and cancel it when the run is interrupted or its time is over.

        Raises `Interrupted` or `BudgetExceeded`.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.cancel.wait())
        try:
            await asyncio.wait(
                {task, stop}, timeout=self.seconds_left, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if self.cancel.cancelled:
                raise Interrupted(f"the run was stopped: {self.cancel.reason}")
            assert self.budget.seconds is not None
            raise BudgetExceeded("seconds", round(self.seconds, 1), self.budget.seconds)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=5)

    async def close(self) -> None:
        """Close what tools left open, the journal last."""
        for close in reversed(self.closers):
            try:
                await close()
            except Exception as error:  # one tool's mess must not keep the others open
                self.show(ToolProgress(call_id="", text=f"closing a tool failed: {error!r}"))
        self.closers.clear()
        await asyncio.to_thread(self.journal.release)  # it waits for the disk
