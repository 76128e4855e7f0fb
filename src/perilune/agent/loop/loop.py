"""The loop: understand, plan, act, observe, verify, revise, conclude.

What comes next is read off the state, never remembered beside it: open calls are run, a proposed
answer is checked, anything else is thought about. So a resumed run goes on exactly where a killed
one stopped, at whatever point that was. A run ends with an answer, or with an exception that names
the reason (`endings.py`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perilune.agent.checks.check import Proposal
from perilune.agent.endings import CONFLICT, DONE, UNVERIFIED, ModelFailed, RepeatedCalls
from perilune.agent.journal import repeat_guard
from perilune.agent.loop.act import act, tool_context
from perilune.agent.loop.handing_over import hand_over
from perilune.agent.loop.think import ask, think
from perilune.agent.loop.verify import examine_all, revision_request
from perilune.agent.models.chat_model import ModelError
from perilune.agent.permissions.permissions import PermissionRequest
from perilune.events import (
    CheckMade,
    RepeatNoticed,
    RunFinished,
    SnapshotTaken,
    UserMessage,
    Verified,
)

if TYPE_CHECKING:
    from perilune.agent.loop.run import Fallback, Run

LAST_STEP = "This is the last step of your budget. Answer now with what you have; say what is open."
CUT_OFF = "Your answer was cut off at its token limit. Give the whole answer again, shorter."


async def drive(run: Run) -> RunFinished:
    """Work on the run's task until it is answered. Raises `RunEnded` otherwise."""
    state = run.state
    while state.finished is None:
        if state.open_calls:
            await act(run)
        elif state.answer_proposed:
            await conclude(run)
        else:
            deliver_steering(run)
            remind_of_repeats(run)
            run.check_budget()
            warn_of_last_step(run)
            run.stage(await think(run))
    return state.finished


async def conclude(run: Run) -> None:
    """Check the proposed answer: end with it, or have it planned and worked on anew."""
    state = run.state
    if deliver_steering(run):
        return
    attempt = state.verify_attempts + 1
    if state.finish_reason == "length":
        verified = Verified(passed=False, problems=[CUT_OFF], attempt=attempt)
    else:
        verified = await run.guarded(examine_all(run.verifiers, propose(run, attempt)))
    if not verified.passed and attempt <= run.budget.revisions and run.may_go_on:
        request = UserMessage(content=revision_request(verified.problems), source="verifier")
        run.append(verified, request)
        return
    run.stage(verified)
    answer = state.last_answer
    if not verified.passed and run.fallback is not None:
        answer, verified = run.fallback.answer, fallback_verdict(run.fallback, verified)
        run.stage(verified)
    reason, detail = (DONE, "") if verified.passed else (UNVERIFIED, "; ".join(verified.problems))
    if run.copy is not None:
        conflict = await hand_over(run, run.copy, detail)
        reason, detail = (CONFLICT, conflict) if conflict else (reason, detail)
        if run.state.changes is not None and not run.state.changes.applied:
            detail = f"{detail}. Take the changes all the same: perilune trace apply {run.id}"
    await finish(run, reason, answer=answer, detail=detail)
    begin_next_turn(run)


def fallback_verdict(fallback: Fallback, merged: Verified) -> Verified:
    """The verdict of the trajectory that stands in for a merge that failed."""
    note = f"the merge failed ({'; '.join(merged.problems)}); this is trajectory "
    note += f"{fallback.trajectory}, of the verified majority"
    checks = list(fallback.verdict.checks) if fallback.verdict else []
    checks.append(CheckMade(name="merge", outcome="noted", notes=[note]))
    return Verified(passed=True, attempt=merged.attempt, checks=checks)


def propose(run: Run, attempt: int) -> Proposal:
    """The answer as checks see it."""
    context = tool_context(run, "check", lambda event: None)
    assert context.evidence is not None

    async def ask_model(question: str) -> str:
        try:
            text, _ = await ask(run, [{"role": "user", "content": question}])
        except ModelError as error:  # the question itself does not fit the window
            raise ModelFailed(error.message, remedy=error.remedy) from error
        return text

    async def confirm(what: str) -> bool:
        """Ask the person, once for each thing."""
        asked = run.tool_state.setdefault("confirmed", {})
        if what not in asked and run.approver is not None:
            request = PermissionRequest("the run", what, {"what": what})
            asked[what] = (await run.approver(request)).allow
        return bool(asked[what])

    return Proposal(
        text=run.state.last_answer,
        state=run.state,
        workspace=run.workspace,
        evidence=context.evidence,
        tools=context,
        attempt=attempt,
        last=attempt > run.budget.revisions or not run.may_go_on,
        copy=run.copy,
        others=run.others,
        ask=ask_model,
        confirm=confirm if run.approver is not None else None,
    )


async def finish(run: Run, reason: str, *, answer: str = "", detail: str = "") -> RunFinished:
    """Write the task's end, after a snapshot of what the run left, so that undo knows its work."""
    state = run.state
    if run.snapshots is not None and state.snapshot_before and not state.snapshot_after:
        folder = run.copy.origin if run.copy else run.workspace
        manifest = await asyncio.to_thread(run.snapshots.take, folder, f"{run.id}-after")
        run.stage(
            SnapshotTaken(
                snapshot=manifest.id,
                files=len(manifest.entries),
                bytes=manifest.bytes,
                moment="after",
            )
        )
    finished = RunFinished(
        reason=reason,
        answer=answer,
        detail=detail,
        steps=state.task_steps,
        usage=state.task_usage,
        seconds=round(run.seconds, 3),
    )
    run.append(finished)
    await run.durable()
    return finished


def deliver_steering(run: Run) -> bool:
    """Put what a person said to steer the run before the model; whether there was anything."""
    waiting = [each for each in run.state.inbox if each.mode == "steer"]
    for each in waiting:
        run.append(UserMessage(content=each.content, source="steer"))
    return bool(waiting)


def begin_next_turn(run: Run) -> None:
    """Go on with what a person queued, or said so late that the answer was being written down."""
    late = [each for each in run.state.inbox if each.mode == "steer"]
    for each in (late or run.state.inbox)[:1]:
        run.append(UserMessage(content=each.content, source="queue"))


def remind_of_repeats(run: Run) -> None:
    """Tell the model that it repeats itself, ever more firmly; raise `RepeatedCalls` at the end."""
    state = run.state
    count, period = state.guard.repeats
    if count >= repeat_guard.STOP_AT:
        raise RepeatedCalls(
            f"the model made the same calls with the same results {count} times in a row",
            remedy="Look at the run with `perilune trace show`; resume it with other words.",
        )
    if repeat_guard.level(count) > repeat_guard.level(state.noticed):
        name = state.ledger[-1].name
        text = repeat_guard.reminder(count, period, name)
        run.append(
            RepeatNoticed(name=name, count=count, period=period),
            UserMessage(content=text, source="guard"),
        )


def warn_of_last_step(run: Run) -> None:
    """Let the model conclude by itself before its steps are over."""
    steps = run.budget.steps
    if steps is None or steps < 2 or run.state.task_steps != steps - 1:
        return
    if run.state.messages[-1]["content"] != LAST_STEP:
        run.stage(UserMessage(content=LAST_STEP, source="house"))
