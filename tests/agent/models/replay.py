"""A server in this process: whole HTTP replies, byte by byte, through the real client code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from perilune.agent.models.chat_model import Sampling
from perilune.agent.models.endpoint import EndpointModel
from perilune.chat.deltas import (
    ContentDelta,
    ContentWasReasoning,
    Delta,
    Finished,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)

STREAMS = Path(__file__).parent / "streams"
USER = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {}}}


class Body(httpx.AsyncByteStream):
    """Pieces as they are; an exception among them is raised."""

    def __init__(self, pieces: Sequence[bytes | Exception]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


class Replay(httpx.AsyncBaseTransport):
    """Answers request i with `replies[i]`, the last one all further ones: (status, headers, body)
    or the pieces of a stream."""

    def __init__(self, *replies: Any) -> None:
        self.replies = replies
        self.bodies: list[Any] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(await request.aread() or b"null"))
        reply = self.replies[min(len(self.bodies), len(self.replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            reply = reply(self.bodies[-1])
        if isinstance(reply, tuple):
            status, headers, body = reply
        else:
            status, headers, body = 200, {"content-type": "text/event-stream"}, reply
        pieces = [body] if isinstance(body, bytes) else body
        return httpx.Response(status, headers=headers, stream=Body(pieces))


def sse(*chunks: Any, done: bool = True) -> bytes:
    """Chunks as server-sent events; text goes as it is."""
    lines = [c if isinstance(c, str) else f"data: {json.dumps(c)}\n\n" for c in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode("utf-8", "surrogatepass")


def said(finish: Any = None, **delta: Any) -> dict[str, Any]:
    """One chunk."""
    return {
        "id": "c1",
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def called(
    arguments: Any, name: Any = "get_weather", index: Any = 0, call_id: Any = "call_1"
) -> Any:
    return {
        "index": index, "id": call_id, "type": "function",
        "function": {"name": name, "arguments": arguments},
    }  # fmt: skip


async def deltas_of(*replies: Any, tools: Any = (WEATHER, TIME), **options: Any) -> list[Delta]:
    """What `EndpointModel` makes of a reply. Raises what it raises."""
    sampling = options.pop("sampling", Sampling())
    transport = replies[0] if isinstance(replies[0], Replay) else Replay(*replies)
    model = EndpointModel("http://test", "m", transport=transport, **options)
    try:
        return [each async for each in model.complete(USER, list(tools), sampling)]
    finally:
        await model.close()


def summary(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str, str]], str]:
    """(content, reasoning, calls as (id, name, arguments), reason)."""
    content, reasoning, reason = "", "", ""
    calls: dict[int, tuple[str, str, str]] = {}
    for each in deltas:
        match each:
            case ContentDelta(text):
                content += text
            case ReasoningDelta(text):
                reasoning += text
            case ContentWasReasoning():
                content, reasoning = "", reasoning + content
            case ToolCallStart(index, call_id, name):
                calls[index] = (call_id, name, "")
            case ToolCallArguments(index, text):
                call_id, name, arguments = calls[index]
                calls[index] = (call_id, name, arguments + text)
            case Finished():
                reason = each.reason
    return content, reasoning, [calls[i] for i in sorted(calls)], reason


async def read(*replies: Any, **options: Any) -> tuple[str, str, list[tuple[str, str, str]], str]:
    return summary(await deltas_of(*replies, **options))
