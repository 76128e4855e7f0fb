"""One open run: it takes tasks one after another, and can be steered while it works.

A run is opened anew, or from its journal. Each task of it ends with a `RunResult`, whatever ends
it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from perilune.agent.context.manager import ContextManager
from perilune.agent.context.recall import Recall
from perilune.agent.context.strategies import chain
from perilune.agent.endings import JournalFailed, RunEnded
from perilune.agent.journal.journal import FILE_NAME as JOURNAL_FILE
from perilune.agent.journal.journal import repair
from perilune.agent.journal.state import RunState, fold
from perilune.agent.loop.act import UNKNOWN
from perilune.agent.loop.handing_over import work_on_copy
from perilune.agent.loop.loop import drive, finish
from perilune.agent.loop.result import RunResult
from perilune.agent.loop.run import Listener, Run
from perilune.agent.loop.think import ask
from perilune.agent.models.tokens import TokenCounter
from perilune.agent.tool import CancelToken
from perilune.agent.tool_registry import ToolRegistry
from perilune.agent.workspace.manifest import SnapshotError
from perilune.agent.workspace.snapshot import SnapshotStore, Undone
from perilune.agent.workspace.undo import undo_run
from perilune.errors import UsageError
from perilune.events import (
    Compacted,
    Content,
    MessageReceived,
    PictureLost,
    RunFinished,
    RunResumed,
    RunStarted,
    ToolFinished,
    ToolProgress,
    Usage,
    UserMessage,
)
from perilune.home import find_run, make_run_folder, new_run_id

if TYPE_CHECKING:
    from perilune.agent.journal.memory_journal import MemoryJournal
    from perilune.agent.loop.rules import RunRules
    from perilune.agent.models.chat_model import ChatModel, Message

HEARTBEAT_SECONDS = 15.0
DAMAGED = (
    "The record of this run was damaged, and its end is lost. Anything may have been done after "
    "the last step that you see. Check the present state before you go on."
)
UNDONE = "The user undid your changes: the workspace is what it was before your first write."


class Session:
    """One open run. Steer it from another task, or from a signal handler, while it works."""

    def __init__(
        self, agent: RunRules, resume: str | None = None, folder: Path | None = None
    ) -> None:
        self._agent = agent
        self._resume = resume
        self._folder = folder
        self._opened: Run | None = None
        self.listeners: list[Listener] = [agent.on_record] if agent.on_record else []

    async def __aenter__(self) -> Self:
        await self._agent.model.prepare()
        self._opened = await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._run.close()
        self._opened = None

    @property
    def id(self) -> str:
        return self._run.id

    @property
    def folder(self) -> Path:
        return self._run.folder

    @property
    def state(self) -> RunState:
        return self._run.state

    @property
    def agent(self) -> RunRules:
        return self._agent

    async def run(
        self,
        task: Content | None = None,
        *,
        before: Callable[[Run], Awaitable[None]] | None = None,
    ) -> RunResult:
        """Work on a task until it ends. Without one, go on with the task of a resumed run.

        Pictures of a task are `image_url` parts with data URIs; they are kept in the run's folder.
        Raises `MediaError` for what is no picture or beyond a limit.

        `before` is awaited with the begun run before the model is asked.
        """
        run = self._run
        run.cancel = CancelToken()
        if task is not None:
            self._begin(run, await self._kept(task))
        elif run.state.started is None:
            raise UsageError("a new run needs a task")
        heart = asyncio.create_task(_beat(run))
        try:
            if self._agent.works_on_copy and run.copy is None:
                await work_on_copy(run, SnapshotStore(self._agent.home))
            if before is not None:
                await before(run)
            finished = await drive(run)
        except RunEnded as end:
            finished = await _end(run, end)
        except asyncio.CancelledError:
            with suppress(JournalFailed):
                run.append(_ended(run, "interrupted", "the caller cancelled the run"))
            raise
        except Exception as error:
            with suppress(JournalFailed):
                run.append(_ended(run, "failed", repr(error)))
            raise
        finally:
            heart.cancel()
        return RunResult(
            run=run.id,
            answer=finished.answer,
            reason=finished.reason,
            detail=finished.detail,
            steps=finished.steps,
            usage=finished.usage,
            seconds=finished.seconds,
            recipe=run.state.started.recipe if run.state.started else "",
            verdict=run.state.verdict,
            changes=run.state.changes,
            argument=list(run.state.argument.values()),
        )

    def steer(self, said: Content) -> None:
        """Say something to the model; it hears it at its next step.

        Pictures are `image_url` parts with data URIs. Raises `MediaError` for one that is none.
        """
        content = self._run.pictures.kept(said, strict=True)
        self._run.append(MessageReceived(content=content, mode="steer"))

    def queue(self, said: Content) -> None:
        """Say something that begins the next turn, after the present task is answered."""
        content = self._run.pictures.kept(said, strict=True)
        self._run.append(MessageReceived(content=content, mode="queue"))

    def use_model(self, model: ChatModel) -> None:
        """Go on with another model from the next step on; `prepare` it first."""
        run = self._run
        run.model = model
        run.context = self._make_context(run.state, model)

    async def compact(self) -> Compacted | None:
        """Make the model's view smaller now; None when there is nothing to leave out."""
        run = self._run
        compacted = await run.context.compact(run.tools.declarations())
        if compacted is not None:
            run.append(compacted)
        return compacted

    async def undo(self) -> Undone:
        """Bring the workspace back to what it was before the run's first write.

        What someone else changed after the run's last write is kept as it is, and named.
        """
        run = self._run
        if run.snapshots is None or not run.state.snapshot_before:
            raise SnapshotError("this run has changed nothing, or keeps no snapshot")
        before, after = run.state.snapshot_before, run.state.snapshot_after
        undone = await asyncio.to_thread(undo_run, run.snapshots, run.id, before, after)
        run.changes = None  # read anew, with what the undo did
        if not run.state.open_calls:
            run.say(UNDONE)
        return undone

    def interrupt(self, reason: str = "interrupted by the user") -> None:
        """Stop now: the model's stream and all tools are cancelled. The run can be resumed."""
        self._run.cancel.cancel(reason)

    @property
    def _run(self) -> Run:
        if self._opened is None:
            raise UsageError("the session is not open", remedy="Use `async with agent.session():`.")
        return self._opened

    async def _open(self) -> Run:
        agent = self._agent
        damage = ""
        state = RunState()
        if self._folder is not None:
            folder = self._folder
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif self._resume is None:
            folder = make_run_folder(new_run_id(), agent.home)
        else:
            folder = find_run(self._resume, agent.home)
        if (folder / JOURNAL_FILE).exists():
            history = repair(folder)
            state, damage = fold(history.records), history.damage
        journal = await _open_in_thread(agent.open_journal, folder)
        try:
            run = self._make_run(journal, state)
            if state.started is not None or damage:
                _note_resume(run, damage)
        except BaseException:
            journal.release()
            raise
        return run

    def _make_run(self, journal: MemoryJournal, state: RunState) -> Run:
        agent = self._agent
        tools = ToolRegistry()
        for each in agent.tools:
            tools.add_usable(each)
        if agent.context != "keep":
            tools.add(Recall(state))
        for call in state.ledger:
            tools.reveal(call.name)
        return Run(
            journal=journal,
            state=state,
            model=agent.model,
            tools=tools,
            context=self._make_context(state, agent.model),
            workspace=Path(state.started.workspace) if state.started else agent.workspace,
            budget=agent.budget,
            sampling=agent.sampling,
            permissions=agent.permissions,
            approver=agent.approver,
            verifiers=agent.verifiers,
            retry=agent.retry,
            snapshots=SnapshotStore(agent.home) if agent.snapshot else None,
            sandbox=agent.sandbox,
            listeners=self.listeners,
            name=agent.name,
        )

    def _make_context(self, state: RunState, model: ChatModel) -> ContextManager:
        agent = self._agent

        async def ask_model(messages: list[Message]) -> tuple[str, Usage]:
            return await ask(self._run, messages)

        return ContextManager(
            state,
            TokenCounter(model),
            chain(agent.context),
            window=agent.context_window or model.context_window,
            ask=ask_model,
            model=model.name,
        )

    async def _kept(self, task: Content) -> Content:
        if isinstance(task, str):
            return task
        return await asyncio.to_thread(self._run.pictures.kept, task, strict=True)

    def _begin(self, run: Run, task: Content) -> None:
        message = UserMessage(content=task, source="task")
        if run.state.started is not None:
            _settle_open_calls(run)
            run.append(message)
            return
        agent = self._agent
        started = RunStarted(
            task=task,
            system_prompt=agent.system_prompt,
            model=agent.model.name,
            tools=run.tools.names,
            recipe=agent.recipe_name,
            workspace=str(agent.workspace),
            settings=agent.settings,
            parent_run=agent.parent_run,
        )
        run.append(started, *run.tools.left_out, message)
        for note in run.tools.notes:
            run.show(ToolProgress(call_id="", text=note))


async def _open_in_thread(
    open_journal: Callable[[Path], MemoryJournal], folder: Path
) -> MemoryJournal:
    """Opening waits for the disk; the other runs of this loop need not. A journal whose opening
    was not waited for gives its lease back."""
    opening = asyncio.ensure_future(asyncio.to_thread(open_journal, folder))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(
            lambda opened: None if opened.cancelled() or opened.exception() else _release(opened)
        )
        raise


def _release(opened: asyncio.Future[MemoryJournal]) -> None:
    opened.result().release()


def _note_resume(run: Run, damage: str) -> None:
    lost: list[PictureLost] = []
    for picture in run.given():
        if picture.sha256 not in run.state.lost_pictures and (why := run.pictures.check(picture)):
            lost.append(PictureLost(sha256=picture.sha256, reason=why))
    unknown = [call for call, intent in run.state.intents.items() if intent.side_effects]
    run.append(RunResumed(process=os.getpid(), unknown_calls=unknown, damaged=damage), *lost)
    if damage:
        # Tool results must follow their calls, so the warning waits behind open ones.
        run.append(MessageReceived(content=DAMAGED, mode="steer"))


def _settle_open_calls(run: Run) -> None:
    """A new task begins although calls of the last one are open: give each an honest result."""
    for call in list(run.state.open_calls.values()):
        began = call.id in run.state.intents
        run.append(
            ToolFinished(
                call_id=call.id,
                name=call.name,
                content=UNKNOWN if began else "This call was not run.",
                outcome="unknown" if began else "cancelled",
            )
        )


async def _beat(run: Run) -> None:
    """Keep the lease fresh while a model or a tool takes its time."""
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        run.journal.heartbeat()


async def _end(run: Run, end: RunEnded) -> RunFinished:
    """Write how the run ended; when even that cannot be written, say it all the same."""
    detail = f"{end.message}. {end.remedy}" if end.remedy else end.message
    if isinstance(end, JournalFailed):
        return _ended(run, end.reason, detail)
    try:
        return await finish(run, end.reason, detail=detail)
    except SnapshotError as error:
        finished = _ended(run, end.reason, f"{detail} (no snapshot after the run: {error})")
        run.append(finished)
        await run.durable()
        return finished
    except JournalFailed as error:
        return _ended(run, error.reason, f"{detail} (and {error})")


def _ended(run: Run, reason: str, detail: str) -> RunFinished:
    return RunFinished(
        reason=reason,
        answer=run.state.last_answer,
        detail=detail,
        steps=run.state.task_steps,
        usage=run.state.task_usage,
        seconds=round(run.seconds, 3),
    )
