"""What a model says while it speaks: the one vocabulary of parser, engine, server and agent.

A turn is `ReasoningDelta`*, `ContentDelta`*, then calls (`ToolCallStart` `ToolCallArguments`*
`ToolCallEnd`)*, and last `Finished`. The parser makes deltas of token ids and the engine hands
them on; the server and the agent add what they know: scores, usage, where the thinking ends. Other
words stand only where other programs read or write them: `serve/chat_completions.py`,
`serve/anthropic/events.py` and `serve/responses/events.py` write, `agent/models/chunks.py` reads.

`turn.py` adds the deltas of a turn up. On the wire between processes a delta is an array of its
type's name and its fields (msgspec).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from perilune.event.parts import Usage

TruncatedWhere = Literal["reasoning", "tool_section", "tool_call_id", "tool_call_arguments"]


class FinishReason(StrEnum):
    """Why an answer ended. The first four are those of the OpenAI API."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"  # of a foreign server; our engine has none
    CANCELLED = "cancelled"
    ERROR = "error"


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A picked token, its log probability under the model, and the likeliest tokens there."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class ReasoningDelta(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """More of the model's thinking."""

    text: str


class ReasoningEnd(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The thinking is over; the answer or the calls come next. Of the server only, for its APIs."""


class ContentDelta(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """More of the answer. `scores` (the server's) are of the tokens that brought the text."""

    text: str
    scores: tuple[TokenLogprob, ...] = ()


class ContentWasReasoning(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All content so far was the model's thinking: the mark that ends it came only now.

    Servers without a reasoning parser stream `thinking</think>answer` as content.
    """


class ToolCallStart(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A call begins. `index` counts the calls of this message from 0, `id` is as generated."""

    index: int
    id: str
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """More of the arguments of call `index`: a piece of the JSON text, verbatim."""

    index: int
    text: str


class ToolCallEnd(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Call `index` is complete. A call that never gets this must not be executed."""

    index: int


class Truncated(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The output ended, or broke the format, inside `where`; `detail` holds the raw text."""

    where: TruncatedWhere
    detail: str


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The turn is over; always the last delta, exactly once. A stream without it was cut.

    The parser knows the reason only. `usage` is in tokens, None where a server does not say it.
    `stop` is the stop id or stop string that ended the text, `tokens` are all ids of the answer,
    markers and stop id included (the server's). `response_id` and `model` are as a server names
    them (the agent's).
    """

    reason: FinishReason
    usage: Usage | None = None
    stop: int | str | None = None
    tokens: tuple[int, ...] = ()
    response_id: str = ""
    model: str = ""


Delta = (
    ReasoningDelta
    | ReasoningEnd
    | ContentDelta
    | ContentWasReasoning
    | ToolCallStart
    | ToolCallArguments
    | ToolCallEnd
    | Truncated
    | Finished
)
