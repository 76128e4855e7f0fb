"""One completion of a model, put together, for suites that hold their own conversation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from perilune.agent.models.chat_model import Message, ModelError
from perilune.agent.models.limiter import limiter_for
from perilune.agent.models.retry import RetryPolicy
from perilune.chat.deltas import FinishReason
from perilune.chat.turn import AssembledCall, AssembledTurn
from perilune.events import Usage
from perilune.exam.suites.suite import Examinee
from perilune.text import valid_json, valid_text

RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Called:
    """A call; `arguments` is None where the model wrote no JSON object."""

    id: str
    name: str
    text: str
    arguments: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole turn of the model. `cut` says that it was cut off at its token limit."""

    content: str
    reasoning: str
    calls: tuple[Called, ...]
    cut: bool
    usage: Usage

    def message(self) -> Message:
        """The turn as it goes back into the conversation."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.text},
                }
                for call in self.calls
            ]
        return message


async def ask(
    examinee: Examinee, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()
) -> Reply:
    """The model's next turn; failures that may pass are waited for.

    Raises ModelFailed where the model stays silent, ModelError of kind "context" where the
    conversation does not fit its window.
    """
    model = examinee.model
    limiter = limiter_for(model.endpoint)
    attempt = 0
    while True:
        attempt += 1
        try:
            async with limiter.slot():
                reply = await _complete(examinee, messages, tools)
        except ModelError as error:
            if error.kind == "context":
                raise
            wait = RETRY.wait(attempt, error)
            if error.kind in ("rate_limit", "overloaded"):
                limiter.limited(wait)
            await asyncio.sleep(wait)
        else:
            limiter.succeeded()
            return reply


async def _complete(
    examinee: Examinee, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
) -> Reply:
    turn = AssembledTurn()
    stream = examinee.model.complete(messages, tools, examinee.sampling)
    async with aclosing(stream) as deltas:
        async for delta in deltas:
            turn.add(delta)
    if turn.finished is None:
        raise ModelError("the completion broke off before its end", kind="cut", retryable=True)
    used = sum(len(message.get("tool_calls", ())) for message in messages)
    calls = tuple(_called(call, used + index) for index, call in sorted(turn.calls.items()))
    return Reply(
        valid_text(turn.content),
        valid_text(turn.reasoning),
        calls,
        turn.finished.reason is FinishReason.LENGTH,
        turn.finished.usage or Usage(),
    )


def _called(call: AssembledCall, number: int) -> Called:
    text = call.arguments
    try:
        arguments = valid_json(json.loads(text)) if text.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    return Called(
        valid_text(call.id) or f"functions.{call.name}:{number}",
        valid_text(call.name),
        valid_text(text),
        arguments if isinstance(arguments, dict) else None,
    )
