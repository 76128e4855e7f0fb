"""A model that replays a tape, with faults where the tape says so; no network, no weights.

The tape is a list of turns, or a function that looks at the conversation and says the next turn. A
turn is a `Reply`, or a list of attempts of which all but the last usually are faults:

    ScriptedModel([
        Reply(calls=[Call("read_file", {"path": "a.txt"})]),
        [RateLimited(retry_after=0.1), HalfStream("The ans"), Reply("The answer.")],
    ])
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from perilune.agent.models.chat_model import Message, ModelError, Sampling
from perilune.agent.models.tokens import estimate, estimate_text
from perilune.agent.pictures.store import open_picture, part_bytes
from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.errors import MediaError
from perilune.events import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; arguments given as text are sent as they are, valid JSON or not."""

    name: str
    arguments: dict[str, Any] | str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole turn of the model, after `delay` seconds."""

    content: str = ""
    calls: Sequence[Call] = ()
    reasoning: str = ""
    finish_reason: str = ""
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class RateLimited:
    """429, with a Retry-After when `retry_after` is given."""

    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class HalfStream:
    """Some text, and then the connection is gone."""

    content: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that fails for good, e.g. `kind="auth"`, or `kind="context"` for a full window."""

    message: str = "refused"
    kind: str = "request"


@dataclass(frozen=True, slots=True)
class Crash:
    """The process is killed with SIGKILL in the middle of the completion."""


Attempt = Reply | RateLimited | HalfStream | Refused | Crash
Turn = Attempt | Sequence[Attempt]
Tape = Sequence[Turn] | Callable[[Sequence[Message], Sequence[dict[str, Any]]], Turn]
PIECE = 16


class ScriptedModel:
    """A `ChatModel` that plays a tape.

    The place on a list tape is the number of assistant messages in the prompt, so a resumed run
    goes on where the tape was. After the tape's end the last turn stands.
    """

    def __init__(
        self, tape: Tape, *, name: str = "scripted", context_window: int | None = None
    ) -> None:
        self._tape = tape
        self.name = name
        self.endpoint = f"scripted:{name}"
        self.context_window = context_window
        self.prompts: list[list[Message]] = []
        self._attempts: dict[int, int] = {}

    async def prepare(self) -> None:
        pass

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        sampling: Sampling,
    ) -> AsyncGenerator[Delta, None]:
        self.prompts.append(list(messages))
        del self.prompts[:-8]
        attempt = self._next(messages, tools)
        match attempt:
            case RateLimited(retry_after):
                raise ModelError(
                    "429: slow down", kind="rate_limit", retryable=True, retry_after=retry_after
                )
            case Refused(message, kind):
                raise ModelError(message, kind=kind)
            case HalfStream(content):
                yield ContentDelta(content)
                raise ModelError("the stream broke off", kind="cut", retryable=True)
            case Crash():
                os.kill(os.getpid(), signal.SIGKILL)
            case Reply():
                await asyncio.sleep(attempt.delay)
                for delta in _deltas(attempt):
                    yield delta
                reason = "tool_calls" if attempt.calls else "stop"
                yield Finished(
                    FinishReason(attempt.finish_reason or reason),
                    _usage(attempt, messages),
                    response_id=f"scripted-{len(self._attempts)}",
                    model=self.name,
                )

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        return None

    async def close(self) -> None:
        pass

    def _next(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Attempt:
        place = sum(message["role"] == "assistant" for message in messages)
        turn = (
            self._tape(messages, tools)
            if callable(self._tape)
            else self._tape[min(place, len(self._tape) - 1)]
        )
        if not isinstance(turn, Sequence):
            return turn
        attempt = self._attempts.get(place, 0)
        self._attempts[place] = attempt + 1
        return turn[min(attempt, len(turn) - 1)]


def _deltas(reply: Reply) -> list[Delta]:
    deltas: list[Delta] = [ReasoningDelta(piece) for piece in _pieces(reply.reasoning)]
    deltas += [ContentDelta(piece) for piece in _pieces(reply.content)]
    for index, call in enumerate(reply.calls):
        text = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
        deltas.append(ToolCallStart(index, call.id, call.name))
        deltas += [ToolCallArguments(index, piece) for piece in _pieces(text)]
        deltas.append(ToolCallEnd(index))
    return deltas


def _pieces(text: str) -> list[str]:
    return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]


def _with_sizes(message: Message) -> Message:
    """The message with its pictures' sizes in place of their bytes, so that they count as such."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_with_size(part) for part in content]}


def _with_size(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return part
    try:
        return open_picture(part_bytes(part)).part
    except MediaError:
        return part


def _usage(reply: Reply, messages: Sequence[Message]) -> Usage:
    return Usage(
        prompt_tokens=sum(estimate(_with_sizes(message)) for message in messages),
        completion_tokens=estimate_text(reply.reasoning + reply.content) + 20 * len(reply.calls),
        reasoning_tokens=estimate_text(reply.reasoning),
    )
