"""One completion: asked through the endpoint's limiter, retried when that may help, put together.

Deltas are shown while they come; a completion that broke off is discarded whole and asked again, so
half a sentence never gets into the history.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perilune.agent.endings import BudgetExceeded, ModelFailed
from perilune.agent.models.chat_model import Message, ModelError, Sampling
from perilune.agent.models.limiter import limiter_for
from perilune.agent.models.tokens import estimate_text, weigh
from perilune.chat.deltas import ContentDelta, ContentWasReasoning, ReasoningDelta
from perilune.chat.turn import AssembledTurn
from perilune.events import (
    AssistantMessage,
    ContentShown,
    ModelHasNoVision,
    PictureLost,
    ReasoningShown,
    RequestSent,
    Retried,
    StepStarted,
    StreamDiscarded,
    ToolCall,
    Usage,
    UserMessage,
)

if TYPE_CHECKING:
    from perilune.agent.loop.run import Run
    from perilune.agent.pictures.part import Picture

CONTEXT_ATTEMPTS = 4
SUSPICIOUS = 0.7
"""Share of the window from which on a refusal in unknown words may be one of the length."""
THINKING_CUT = (
    "Your thinking in this step reached its limit of {limit} tokens and was cut off. "
    "Decide with what you have: call a tool, or answer."
)

NO_VISION = (
    "You cannot see pictures: this model takes text only. In place of each picture stand its name, "
    "format and size. Go on with what can be known without seeing it, and say what cannot."
)


@dataclass(slots=True)
class Completion:
    """A completion as it comes in."""

    turn: AssembledTurn = field(default_factory=AssembledTurn)
    thinking_tokens: float = 0.0  # estimated, while they come


class _ThoughtTooLong(Exception):
    """The reasoning of this completion is over its budget."""


async def think(run: Run) -> AssistantMessage:
    """The model's next turn on the run's history.

    Raises `ModelFailed`, `ContextOverflow`, `BudgetExceeded` or `Interrupted`.
    """
    tools = run.tools.declarations()
    sampling = run.sampling
    suspected = False
    for _ in range(CONTEXT_ATTEMPTS):
        prompt = await run.context.fit(tools, room=sampling.max_tokens or 0)
        if prompt.compacted is not None:
            run.append(prompt.compacted)
        run.show(StepStarted(step=run.state.step + 1, prompt_tokens=prompt.tokens))
        try:
            shown = await _with_pictures(run, prompt.messages)
            completion = await _complete(run, shown, tools, sampling, show=True)
        except ModelError as error:
            if error.kind == "no_vision" and run.model.name not in run.state.sightless:
                _tell_that_it_is_blind(run, error)
            elif error.kind == "pictures" and run.context.too_many_pictures(error.room or 1):
                pass  # the next prompt has fewer
            elif error.kind == "context":
                run.context.overflowed(prompt.tokens, window=error.window)
            elif not suspected and _may_be_too_long(run, error, prompt.tokens):
                # Words that nobody knows, for a prompt that nearly fills the window: try once.
                suspected = True
                run.context.overflowed(prompt.tokens)
            else:
                run.retry.wait(1, error)  # it ends the run
                raise
        except _ThoughtTooLong:
            if sampling.thinking is False:
                limit = run.budget.thinking_tokens or 0
                raise BudgetExceeded("thinking_tokens", limit, limit) from None
            run.say(THINKING_CUT.format(limit=run.budget.thinking_tokens))
            sampling = dataclasses.replace(sampling, thinking=False)
        else:
            return _message(run, completion, prompt.tokens)
    raise ModelFailed("the model refused every prompt as too long")


async def _with_pictures(run: Run, messages: list[Message]) -> list[Message]:
    """The prompt with the pictures' bytes; one whose file is lost is a text, and is said once."""
    lost: dict[str, str] = {}

    def note(picture: Picture, why: str) -> None:
        lost[picture.sha256] = why

    shown = await asyncio.to_thread(run.pictures.shown, messages, note)
    for sha256, why in lost.items():
        if sha256 not in run.state.lost_pictures:
            run.append(PictureLost(sha256=sha256, reason=why))
    return shown


def _tell_that_it_is_blind(run: Run, error: ModelError) -> None:
    run.append(
        ModelHasNoVision(model=run.model.name, reason=error.message),
        UserMessage(content=NO_VISION, source="house"),
    )


def _may_be_too_long(run: Run, error: ModelError, tokens: int) -> bool:
    """Whether a refusal without a known cause may mean that the prompt is too long."""
    window = run.context.window
    return (
        error.kind == "request"
        and error.status in (400, 413, 422)
        and not error.explained
        and window is not None
        and tokens >= SUSPICIOUS * window
    )


async def ask(run: Run, messages: list[Message]) -> tuple[str, Usage]:
    """An answer outside of the run's conversation (a summary, say), and what it took."""
    completion = await _complete(run, messages, [], run.sampling, show=False)
    return completion.turn.content, completion.turn.ending.usage or Usage()


async def _complete(
    run: Run,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    sampling: Sampling,
    *,
    show: bool,
) -> Completion:
    """Ask until a whole completion came, as often as the retry policy allows."""
    limiter = limiter_for(run.model.endpoint)
    attempt = sent = 0
    completion = Completion()

    async def in_turn(*, first: bool) -> None:
        nonlocal sent
        async with limiter.slot(first=first) as sent:
            if show:
                run.show(RequestSent())
            await _stream(run, completion, messages, tools, sampling, show)

    while True:
        attempt += 1
        completion = Completion()
        try:
            await run.guarded(in_turn(first=attempt > 1))
        except ModelError as error:
            if error.kind == "context" or (show and not error.retryable):
                raise
            wait = run.retry.wait(attempt, error)
            if error.kind in ("rate_limit", "overloaded"):
                limiter.limited(wait, sent)
            if show:
                run.show(StreamDiscarded())
            run.append(Retried(attempt=attempt, cause=error.message, wait_seconds=round(wait, 3)))
            await run.guarded(asyncio.sleep(wait))
        except _ThoughtTooLong:
            run.show(StreamDiscarded())
            raise
        else:
            limiter.succeeded()
            return completion


async def _stream(
    run: Run,
    completion: Completion,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    sampling: Sampling,
    show: bool,
) -> None:
    limit = run.budget.thinking_tokens
    if limit is not None:
        sampling = dataclasses.replace(sampling, thinking_tokens=limit)
    async with aclosing(run.model.complete(messages, tools, sampling)) as deltas:
        async for delta in deltas:
            completion.turn.add(delta)
            match delta:
                case ReasoningDelta(text):
                    completion.thinking_tokens += weigh(text)
                    if show:
                        run.show(ReasoningShown(text=text))
                    if limit is not None and completion.thinking_tokens > limit:
                        raise _ThoughtTooLong
                case ContentDelta(text) if show:
                    run.show(ContentShown(text=text))
                case ContentWasReasoning() if show:
                    run.show(StreamDiscarded())
                    run.show(ReasoningShown(text=completion.turn.reasoning))
    if completion.turn.finished is None:
        raise ModelError("the completion broke off before its end", kind="cut", retryable=True)


def _message(run: Run, completion: Completion, prompt_tokens: int) -> AssistantMessage:
    turn = completion.turn
    finished = turn.ending
    content, reasoning = turn.content, turn.reasoning
    usage = finished.usage
    if usage is None:
        thought = estimate_text(reasoning)
        answered = estimate_text(content)
        usage = Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=thought + answered,
            reasoning_tokens=thought,
        )
    else:
        run.context.reported(prompt_tokens, usage)
    return AssistantMessage(
        step=run.state.step + 1,
        content=content,
        reasoning=reasoning,
        tool_calls=_with_own_ids(run, turn),
        finish_reason=str(finished.reason),
        usage=usage,
        model=finished.model or run.model.name,
        response_id=finished.response_id,
    )


def _with_own_ids(run: Run, turn: AssembledTurn) -> list[ToolCall]:
    """The calls, each with an id that no other call of the run has.

    The server's id is kept where it is one; else it is `functions.NAME:N`, counted over the whole
    conversation as K2 was trained (model card of Kimi-K2-Thinking).
    """
    used = set(run.state.call_ids)
    calls: list[ToolCall] = []
    for _, call in sorted(turn.calls.items()):
        call_id, number = call.id, len(used)
        while not call_id or call_id in used:
            call_id = f"functions.{call.name}:{number}"
            number += 1
        used.add(call_id)
        calls.append(ToolCall(id=call_id, name=call.name, arguments=call.arguments))
    return calls
