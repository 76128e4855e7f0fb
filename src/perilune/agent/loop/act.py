"""Runs the tool calls of one turn: checked, permitted, written down, run, written down again.

The intent is durable before a tool begins and the result after it ended. So a call whose intent has
no result was cut off by a crash; if it has side effects it is shown to the model as unknown and is
never run again on its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from perilune.agent.context.outputs import fit_output
from perilune.agent.endings import BudgetExceeded, Interrupted
from perilune.agent.evidence.store import RunEvidence
from perilune.agent.permissions.permissions import PermissionRequest, subject_of
from perilune.agent.tool import Tool, ToolContext, ToolResult
from perilune.agent.workspace.change_log import ChangeLog
from perilune.errors import ToolError
from perilune.events import (
    Event,
    EvidenceKept,
    PermissionDecided,
    SnapshotTaken,
    ToolCall,
    ToolFinished,
    ToolProgress,
    ToolStarted,
)
from perilune.sandbox.protected import asked_about
from perilune.text import valid_json, valid_text

if TYPE_CHECKING:
    from perilune.agent.loop.run import Run
    from perilune.agent.pictures.part import Picture

Outcome = Literal["ok", "error", "refused", "denied", "timeout", "cancelled", "unknown"]

UNKNOWN = (
    "The process stopped while this call ran. Whether it took effect, wholly or in part, is "
    "unknown. Check the present state before you do it again."
)
GRACE = 2.0
"""Seconds that a cancelled tool gets to clean up before it is left behind."""


@dataclass(slots=True)
class _Ready:
    """A call that may run, and the events that its tool emitted so far."""

    call: ToolCall
    tool: Tool
    arguments: dict[str, Any]
    emitted: list[Event] = field(default_factory=list)


async def act(run: Run) -> None:
    """Run all open calls of the last turn; neighbours that are parallel-safe run together.

    Raises `Interrupted` or `BudgetExceeded` when the run was stopped; every call then has a result.
    """
    ready: list[_Ready] = []
    for call in list(run.state.open_calls.values()):
        prepared = await _prepare(run, call)
        if prepared is None:
            continue
        if ready and not (prepared.tool.parallel_safe and ready[-1].tool.parallel_safe):
            await _run_together(run, ready)
            ready = []
        ready.append(prepared)
    if ready:
        await _run_together(run, ready)
    elif run.cancel.cancelled:
        raise Interrupted(f"the run was stopped: {run.cancel.reason}")


async def _prepare(run: Run, call: ToolCall) -> _Ready | None:
    """Check one call. None when it was answered without being run."""
    intent = run.state.intents.get(call.id)
    if intent is not None and intent.side_effects:
        run.append(_finished(call, UNKNOWN, "unknown"))
        return None
    if run.cancel.cancelled:
        run.append(_finished(call, "The run was interrupted before this call began.", "cancelled"))
        return None
    try:
        if run.state.finish_reason == "length" and call.id == next(reversed(run.state.open_calls)):
            raise ToolError(
                "your message was cut off at its token limit inside this call; nothing was run"
            )
        arguments = run.tools.parse_arguments(
            call.name,
            call.arguments,
            note=lambda text: run.show(ToolProgress(call_id=call.id, text=text)),
        )
    except ToolError as error:
        run.append(_finished(call, f"Error: {error}", "refused"))
        return None
    tool = run.tools[call.name]
    run.tools.reveal(call.name)
    if not await _permitted(run, call, arguments):
        return None
    if tool.side_effects and run.snapshots is not None and not run.state.snapshot_before:
        await _take_snapshot(run)
    return _Ready(call, tool, arguments)


async def _permitted(run: Run, call: ToolCall, arguments: dict[str, Any]) -> bool:
    tool = run.tools[call.name]
    decision, rule = run.permissions.decide(
        call.name,
        arguments,
        also_allowed=run.state.allowed,
        also_known_as=getattr(tool, "also_known_as", ()),
        workspace=run.workspace,
    )
    if decision == "allow" and not rule and tool.side_effects:
        row = asked_about(str(arguments.get("path", "")))  # no rule of the user's speaks of it
        if row is not None:
            decision, rule = "ask", f"{call.name}({arguments['path']})"
    if decision == "allow":
        return True
    if decision == "ask" and run.approver is not None:
        await run.durable()  # a person may take hours
        request = PermissionRequest(call.name, subject_of(arguments), arguments)
        answer = await run.guarded(run.approver(request))
        run.append(
            PermissionDecided(
                call_id=call.id,
                name=call.name,
                decision="allow" if answer.allow else "deny",
                rule=answer.always,
                by="person",
            )
        )
        if answer.allow:
            return True
        why = "The person said no to this call."
    elif decision == "ask":
        why = f"This call needs a person's yes (rule {rule!r}), and nobody is here to ask."
        run.stage(_decided(call, rule))
    else:
        why = f"This call is not allowed (rule {rule!r})."
        run.stage(_decided(call, rule))
    run.append(_finished(call, f"Denied: {why} Find another way, or say what you need.", "denied"))
    return False


async def _take_snapshot(run: Run) -> None:
    """Before the first write of a run. Raises `SnapshotError` rather than go on without undo."""
    assert run.snapshots is not None
    manifest = await asyncio.to_thread(run.snapshots.take, run.workspace, run.id)
    run.append(
        SnapshotTaken(
            snapshot=manifest.id, files=len(manifest.entries), bytes=manifest.bytes, moment="before"
        )
    )


async def _run_together(run: Run, ready: list[_Ready]) -> None:
    async with _changes_noted(run, any(each.tool.side_effects for each in ready)):
        await _run_side_by_side(run, ready)


async def _run_side_by_side(run: Run, ready: list[_Ready]) -> None:
    """Write all intents in one go, run the calls side by side, write each result as it comes.

    Without side effects a lost intent costs nothing, so those calls do not wait for the disk,
    unless the tool asks for it with a true attribute `durable_intent`.
    """
    run.append(
        *(
            ToolStarted(
                call_id=each.call.id,
                name=each.call.name,
                arguments=each.arguments,
                side_effects=each.tool.side_effects,
                step=run.state.step,
            )
            for each in ready
        )
    )
    if any(each.tool.side_effects or getattr(each.tool, "durable_intent", False) for each in ready):
        await run.durable()
    if len(ready) == 1:
        await _run_one(run, ready[0])
    else:
        ended = await asyncio.gather(
            *(_run_one(run, each) for each in ready), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error
    if run.cancel.cancelled:
        raise Interrupted(f"the run was stopped: {run.cancel.reason}")
    if run.seconds_left is not None and run.seconds_left <= 0:
        assert run.budget.seconds is not None
        raise BudgetExceeded("seconds", round(run.seconds, 1), run.budget.seconds)


@asynccontextmanager
async def _changes_noted(run: Run, side_effects: bool) -> AsyncIterator[None]:
    """Note who changed what of the workspace, for undo: others before the calls, these in them.

    A run on a copy changes the workspace in one go, when it hands its work over.
    """
    before = run.state.snapshot_before
    if not side_effects or run.snapshots is None or not before or run.copy is not None:
        yield
        return
    if run.changes is None:
        run.changes = ChangeLog(run.snapshots, run.id, run.workspace, before)
    await asyncio.to_thread(run.changes.begin)
    try:
        yield
    finally:
        await asyncio.to_thread(run.changes.end)


async def _run_one(run: Run, ready: _Ready) -> None:
    began = time.monotonic()
    result, outcome = await _run_tool(run, ready)
    result = replace(
        result,
        content=valid_json(result.content),
        full_output=result.full_output and valid_text(result.full_output),
    )
    content, full = fit_output(result, ready.call.id, run.outputs)
    if isinstance(content, list):
        content = await asyncio.to_thread(run.pictures.kept, content)
    kept = [event.id for event in ready.emitted if isinstance(event, EvidenceKept)]
    run.append(
        *ready.emitted,
        ToolFinished(
            call_id=ready.call.id,
            name=ready.call.name,
            content=content,
            outcome="error" if outcome == "ok" and result.is_error else outcome,
            seconds=round(time.monotonic() - began, 4),
            files=result.files,
            evidence=list(dict.fromkeys([*result.evidence, *kept])),
            full_output=full,
        ),
    )


async def _run_tool(run: Run, ready: _Ready) -> tuple[ToolResult, Outcome]:
    """The result of a call, whatever the tool does: raise, hang, or ignore its cancellation."""
    tool = ready.tool
    task = asyncio.ensure_future(tool.run(ready.arguments, _context(run, ready)))
    stop = asyncio.ensure_future(run.cancel.wait())
    limits = [each for each in (tool.timeout, run.seconds_left) if each is not None]
    timeout = max(0.0, min(limits)) if limits else None
    try:
        await asyncio.wait({task, stop}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE)
            effects = " Its effects so far are unknown; check." if tool.side_effects else ""
            if run.cancel.cancelled:
                return ToolResult(f"Interrupted.{effects}", is_error=True), "cancelled"
            text = f"Error: no result after {timeout:g} s; the call was stopped.{effects}"
            return ToolResult(text, is_error=True), "timeout"
        return _result_of(task), "ok"
    finally:
        stop.cancel()
        task.cancel()


def _result_of(task: asyncio.Future[ToolResult]) -> ToolResult:
    if task.cancelled():
        return ToolResult("Error: the tool cancelled itself.", is_error=True)
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, ToolError):
        return ToolResult(f"Error: {error}", is_error=True)
    if not isinstance(error, Exception):
        raise error
    text = f"Error: the tool failed in a way that it did not foresee: {error!r}"
    return ToolResult(text, is_error=True)


def _context(run: Run, ready: _Ready) -> ToolContext:
    loop = asyncio.get_running_loop()

    def emit(event: Event) -> None:
        # Durable events wait for the call's result, so that both are written or neither is.
        # A tool may emit from a thread.
        if event.durable:
            ready.emitted.append(event)
        else:
            loop.call_soon_threadsafe(run.show, event)

    return tool_context(run, ready.call.id, emit)


@dataclass(frozen=True, slots=True)
class _RunPictures:
    """`tool.Pictures` of a run."""

    run: Run

    def given(self) -> list[Picture]:
        return self.run.given()

    def read(self, picture: Picture) -> bytes:
        return self.run.pictures.read(picture)


def tool_context(run: Run, call_id: str, emit: Callable[[Event], None]) -> ToolContext:
    """What a call, or a check of the answer, may use of the run."""
    return ToolContext(
        workspace=run.workspace,
        run_id=run.id,
        call_id=call_id,
        outputs=run.outputs,
        sandbox=run.sandbox,
        evidence=RunEvidence(run.folder / "evidence", emit),
        pictures=_RunPictures(run),
        cancel=run.cancel,
        emit=emit,
        reveal=run.tools.reveal,
        on_run_end=run.closers.append,
        state=run.tool_state,
        context_window=run.context.window,
    )


def _finished(call: ToolCall, text: str, outcome: Outcome) -> ToolFinished:
    return ToolFinished(call_id=call.id, name=call.name, content=text, outcome=outcome)


def _decided(call: ToolCall, rule: str) -> PermissionDecided:
    return PermissionDecided(
        call_id=call.id,
        name=call.name,
        decision="deny",
        rule=rule,
        by="rule" if rule else "default",
    )
