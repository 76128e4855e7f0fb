"""One assignment at work in this process: an agent of its own, watched until it has ended.

The sub-agent's folder holds its journal, evidence, outputs and workspace. Whatever happens in it is
turned into an `Outcome`; an assignment that was cut off by a crash goes on from its journal, and
one that had ended is not done again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from perilune.agent.agent import Agent, RunResult, Session
from perilune.agent.context.view import content_text
from perilune.agent.endings import DONE, UNVERIFIED
from perilune.agent.evidence.store import CITATION
from perilune.agent.journal.clock import now
from perilune.agent.journal.journal import FILE_NAME, History, read_journal
from perilune.agent.journal.state import RunState, fold
from perilune.agent.loop.run import Run
from perilune.errors import PeriluneError
from perilune.events import (
    AssignmentStatus,
    MessageReceived,
    Record,
    RequestSent,
    Retried,
    RunFinished,
    StepStarted,
    ToolFinished,
    ToolStarted,
    Usage,
)
from perilune.swarm.assignment import Assignment, Outcome, status_of
from perilune.swarm.workspaces import (
    Listing,
    WorkspaceKind,
    keep_changed,
    list_files,
    make_workspace,
)

STOPPING = 8.0
"""Seconds that a sub-agent gets to end after it was stopped, before it is left behind."""
TOOL_GRACE = 5.0
MOVED = (
    "You were moved to another machine. Your workspace is as it was at the beginning: files that "
    "you made or changed are gone. Make again what you still need."
)
SHOWN_OF_TOOL = 600

Observer = Callable[[Record], None]


class SubAgent:
    """Works on one assignment. `worker` is the agent that it is one of."""

    def __init__(
        self,
        worker: Agent,
        assignment: Assignment,
        folder: Path,
        *,
        workspaces: WorkspaceKind,
        silence_seconds: float,
        observe: Observer,
    ) -> None:
        self.assignment = assignment
        self.steps = assignment.earlier_steps
        self.tool_calls = assignment.earlier_tool_calls
        self._worker = worker
        self._folder = folder
        self._workspaces = workspaces
        self._silence = silence_seconds
        self._tell = observe
        self._session: Session | None = None
        self._begun = False
        self._words: list[str] = []
        self._stopped = ""
        self._hung = ""
        self._sign = time.monotonic()
        self._queued = False
        self._open_tools: dict[str, float] = {}

    async def work(self) -> Outcome:
        """Work until it has ended, however it ends. Only a cancellation is raised."""
        history = self._history()
        ended = _outcome_of_ended(self.assignment, history, self._folder)
        if ended is not None:
            return ended
        began = now()
        if history.records and not self.assignment.earlier_steps:
            began = history.records[0].time
        try:
            return await self._work(began)
        except PeriluneError as error:
            return self._failed(str(error), began)
        except Exception as error:  # a bug in a model, a tool, or here: the swarm goes on
            return self._failed(repr(error), began)

    def steer(self, text: str) -> None:
        """Say something to the sub-agent; it hears it at its next step."""
        if self._begun and self._session is not None:
            self._session.steer(text)
        else:
            self._words.append(text)

    def stop(self, reason: str) -> None:
        """End it; what it has is reported."""
        self._stopped = reason
        if self._begun and self._session is not None:
            self._session.interrupt(reason)

    async def _catch_up(self, run: Run) -> None:
        """What a person said before the run had begun."""
        self._begun = True
        for text in self._words:
            run.append(MessageReceived(content=text, mode="steer"))
        self._words.clear()
        if self._stopped:
            run.cancel.cancel(self._stopped)

    async def _work(self, began: float) -> Outcome:
        moved = not (self._folder / "workspace").exists()
        workspace, before = await self._workspace()
        agent = self._worker.copy_with(
            system_prompt=system_prompt_of(self._worker, self.assignment),
            workspace=workspace,
            name=self.assignment.agent,
            on_record=self._observe,
            snapshot=False,
            settings={"call": self.assignment.call_id, "agent": self.assignment.agent},
        )
        async with agent.session(folder=self._folder) as session:
            self._session = session
            if moved and any(each.side_effects for each in session.state.ledger):
                session.steer(MOVED)
            task = None if session.state.started else self.assignment.prompt
            running = asyncio.ensure_future(session.run(task, before=self._catch_up))
            try:
                await self._watch(running)
            finally:
                if not running.done():
                    running.cancel()
                    await asyncio.wait({running}, timeout=STOPPING)
                self._session = None
            result = running.result() if running.done() and not running.cancelled() else None
            state = session.state
        status: AssignmentStatus
        if self._hung:
            status, why = "hung", self._hung
        elif result is None:
            status, why = "died", "it did not end when it was stopped"
        else:
            status, why = status_of(result.reason, result.answer)
            why = why or result.detail
            why = self._stopped if status == "stopped" and self._stopped else why
        files: list[str] = []
        if any(each.side_effects for each in state.ledger):
            files = await asyncio.to_thread(keep_changed, workspace, before, self._folder / "files")
        outcome = _outcome(self.assignment, state, status, why, began, files)
        _keep_outcome(self._folder, outcome)
        return outcome

    async def _watch(self, running: asyncio.Future[RunResult]) -> None:
        """Wait for the end; a sub-agent that gives no sign of life is stopped as hung."""
        self._sign = time.monotonic()
        while not running.done():
            silent = time.monotonic() - self._sign
            allowed = max([self._silence, *self._open_tools.values()])
            if not self._queued and silent >= allowed:
                self._hung = f"no sign of life for {silent:.0f} s"
                assert self._session is not None
                self._session.interrupt(self._hung)
                await asyncio.wait({running}, timeout=STOPPING)
                return
            # Looked at again before a long tool's time is over, for it may end at once.
            pause = self._silence if self._queued else min(allowed - silent, self._silence)
            await asyncio.wait({running}, timeout=max(0.01, pause))

    def _observe(self, record: Record) -> None:
        self._sign = time.monotonic()
        match record.event:
            case StepStarted() | Retried():
                self._queued = True  # at the limiter, or until the server's time is over
            case RequestSent():
                self._queued = False
            case ToolStarted(call_id=call_id, name=name):
                self._queued = False
                tool = next((each for each in self._worker.tools if each.name == name), None)
                timeout = tool.timeout if tool is not None else None
                self._open_tools[call_id] = (timeout or 0.0) + TOOL_GRACE
            case ToolFinished(call_id=call_id):
                self._open_tools.pop(call_id, None)
                self.tool_calls += 1
            case _:
                pass
        self._tell(record)

    async def _workspace(self) -> tuple[Path, Listing]:
        """The workspace, and what it held before the sub-agent's first step."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        workspace, listed = self._folder / "workspace", self._folder / "workspace.json"
        await make_workspace(self._workspaces, self._worker.workspace, workspace)
        if not listed.exists():
            listing = await asyncio.to_thread(list_files, workspace)
            listed.write_bytes(msgspec.json.encode(listing))
            return workspace, listing
        return workspace, msgspec.json.decode(listed.read_bytes(), type=Listing)

    def _history(self) -> History:
        if not (self._folder / FILE_NAME).exists():
            return History()
        return read_journal(self._folder)

    def _failed(self, why: str, began: float) -> Outcome:
        with suppress(PeriluneError):
            state = fold(self._history().records)
            return _outcome(self.assignment, state, "died", why, began, [])
        ended = max(began, now())
        return Outcome(status="died", report="", detail=why, began=began, ended=ended)


def system_prompt_of(worker: Agent, assignment: Assignment) -> str:
    """The part that all sub-agents share first, so that engines and servers cache it once."""
    return f"{worker.system_prompt}\n\n{assignment.system_prompt}".strip()


def sub_agent_prompt() -> str:
    return (Path(__file__).parent / "sub_agent.md").read_text("utf-8").strip()


def evidence_in(folder: Path) -> dict[str, tuple[str, str, str]]:
    """`(source, title, text)` by id of all that a run kept in its folder."""
    kept: dict[str, tuple[str, str, str]] = {}
    for path in sorted((folder / "evidence").glob("*.txt")):
        header, _, text = path.read_text("utf-8", "surrogatepass").partition("\n")
        fields = json.loads(header)
        kept[f"ev:{path.stem}"] = (str(fields["source"]), str(fields["title"]), text)
    return kept


_OUTCOME = "outcome.json"


def _keep_outcome(folder: Path, outcome: Outcome) -> None:
    (folder / _OUTCOME).write_bytes(msgspec.json.encode(outcome))


def _outcome_of_ended(assignment: Assignment, history: History, folder: Path) -> Outcome | None:
    """The outcome of an assignment whose run had ended for good before; None to go on with it."""
    finished = [each for each in history.records if isinstance(each.event, RunFinished)]
    if not finished or finished[-1] is not history.records[-1]:
        return None
    event = finished[-1].event
    assert isinstance(event, RunFinished)
    lasting = event.reason in (DONE, UNVERIFIED, "repeat") or event.reason.startswith("budget:")
    if not lasting:
        return None
    with suppress(OSError, msgspec.DecodeError):
        kept = msgspec.json.decode((folder / _OUTCOME).read_bytes(), type=Outcome)
        if kept.ended >= finished[-1].time:
            return kept
    status, why = status_of(event.reason, event.answer)
    began = history.records[0].time
    state = fold(history.records)
    return _outcome(assignment, state, status, why or event.detail, began, [])


def _outcome(
    assignment: Assignment,
    state: RunState,
    status: AssignmentStatus,
    why: str,
    began: float,
    files: list[str],
) -> Outcome:
    earlier = assignment.earlier_usage
    usage = state.usage
    report = state.last_answer if status in ("done", "unverified") else partial(state)
    return Outcome(
        status=status,
        report=report,
        detail=why,
        steps=max(0, state.step - assignment.earlier_steps),
        tool_calls=max(0, len(state.ledger) - assignment.earlier_tool_calls),
        usage=Usage(
            prompt_tokens=usage.prompt_tokens - earlier.prompt_tokens,
            completion_tokens=usage.completion_tokens - earlier.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens - earlier.reasoning_tokens,
            cached_tokens=usage.cached_tokens - earlier.cached_tokens,
            cost=usage.cost - earlier.cost,
        ),
        began=began,
        # A record of another machine may be later than the clock of this one.
        ended=max(began, state.last_time, now()),
        evidence=[each for each in state.evidence if CITATION.fullmatch(f"[{each}]")],
        files=files,
    )


def partial(state: RunState) -> str:
    """What there is of an answer: notes, the last words, else the last that a tool gave."""
    parts = [f"- {note}" for note in state.notes]
    said = [
        str(message["content"]).strip()
        for message in state.messages
        if message["role"] == "assistant" and str(message.get("content") or "").strip()
    ]
    if said:
        parts.append(said[-1])
    elif state.messages and state.messages[-1]["role"] == "tool":
        text = content_text(state.messages[-1]["content"])
        parts.append(f"last tool result: {text[:SHOWN_OF_TOOL]}")
    return "\n".join(parts)
