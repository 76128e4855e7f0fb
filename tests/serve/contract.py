"""The rules of a chat completion stream (P0 to P2), as one check, and requests asked both ways.

Every streamed reply of these tests goes through `check_stream`, so each rule is held in all of
them; `test_stream_rules.py` shows that the check itself catches each rule's breach.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import httpx

from .servers import events

URL = "/v1/chat/completions"


@dataclass(slots=True)
class Said:
    """A reply, whichever way it came."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)  # of an error, or the whole reply
    messages: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    usages: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[list[dict[str, Any]]] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    headers: Any = None

    @property
    def message(self) -> dict[str, Any]:
        (message,) = self.messages
        return message

    @property
    def reason(self) -> str:
        (reason,) = self.reasons
        return reason

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]


async def ask(client: httpx.AsyncClient, body: dict[str, Any], *, stream: bool) -> Said:
    """POST a chat completion; a stream is checked against all rules."""
    body = {"messages": [{"role": "user", "content": "Hi"}], **body}
    reply = await client.post(URL, json={**body, "stream": stream} if stream else body)
    if reply.status_code != 200:
        assert reply.headers["content-type"].startswith("application/json")
        error = reply.json()["error"]  # P0: an error before the stream is JSON, never SSE
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        return Said(reply.status_code, reply.json(), headers=reply.headers)
    if stream:
        said = check_stream(reply, n=body.get("n", 1), body=body)
        said.headers = reply.headers
        return said
    whole = reply.json()
    check_whole(whole)
    choices = whole["choices"]
    return Said(
        200,
        whole,
        [choice["message"] for choice in choices],
        [choice["finish_reason"] for choice in choices],
        [whole["usage"]] * len(choices),
        [(choice["logprobs"] or {}).get("content") or [] for choice in choices],
        headers=reply.headers,
    )


def check_whole(whole: dict[str, Any]) -> None:
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", whole["id"])
    assert whole["object"] == "chat.completion" and isinstance(whole["created"], int)
    check_usage(whole["usage"])
    for number, choice in enumerate(whole["choices"]):
        assert choice["index"] == number
        assert choice["finish_reason"] in ("stop", "length", "tool_calls")
        if choice["logprobs"]:
            check_logprobs(choice["logprobs"])
        message = choice["message"]
        assert message["role"] == "assistant" and "content" in message
        assert "tool_calls" not in message or message["tool_calls"]
        assert (choice["finish_reason"] == "tool_calls") <= ("tool_calls" in message)
        check_calls(message.get("tool_calls", []))


def check_calls(calls: list[dict[str, Any]]) -> None:
    for call in calls:
        assert set(call) == {"id", "type", "function"} and call["type"] == "function"
        assert set(call["function"]) == {"name", "arguments"}
        assert re.fullmatch(re.escape(call["function"]["name"]) + r"_[0-9]+", call["id"])
    assert len({call["id"] for call in calls}) == len(calls)


def check_logprobs(logprobs: dict[str, Any]) -> None:
    assert set(logprobs) == {"content", "refusal"} and logprobs["refusal"] is None
    for score in logprobs["content"]:
        assert set(score) == {"token", "logprob", "bytes", "top_logprobs"}
        for one in (score, *score["top_logprobs"]):
            assert isinstance(one["token"], str) and one["logprob"] <= 0
            assert all(isinstance(byte, int) for byte in one["bytes"])


def check_usage(usage: dict[str, Any]) -> None:
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert isinstance(usage[name], int)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert isinstance(usage["prompt_tokens_details"]["cached_tokens"], int)
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert isinstance(reasoning, int) and reasoning <= usage["completion_tokens"]


def check_stream(reply: httpx.Response, *, n: int = 1, body: dict[str, Any]) -> Said:
    """Assert P0, P1 and P2 of a streamed reply; what it says."""
    assert reply.headers["content-type"].startswith("text/event-stream")  # P0
    for line in reply.text.split("\n"):
        assert not line or line.startswith(("data: ", ": ")), line  # P0
    frames = events(reply.text)
    return check_frames(frames, n=n, body=body)


def check_frames(frames: list[Any], *, n: int = 1, body: dict[str, Any]) -> Said:
    assert frames[-1] == "[DONE]" and "[DONE]" not in frames[:-1]  # P1
    chunks = frames[:-1]
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    final = None
    if wants_usage:  # P0: after all candidates ended
        final = chunks.pop()
        assert final["choices"] == [] and final["object"] == "chat.completion.chunk"
        check_usage(final["usage"])
    first = chunks[0]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", first["id"])  # P2
    turns = [_Turn() for _ in range(n)]
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk" and isinstance(chunk["created"], int)
        for name in ("id", "object", "created", "model"):  # P1
            assert chunk[name] == first[name]
        assert chunk["usage"] is None  # P1; P2: no usage unless it is asked for
        (choice,) = chunk["choices"]  # P0: exactly one
        turns[choice["index"]].take(choice)
    assert all(turn.reason for turn in turns)  # P1: one end frame each
    if final is not None:
        total = sum(turn.usage["completion_tokens"] for turn in turns)
        assert final["usage"]["completion_tokens"] == total
        assert final["id"] == first["id"]
    return Said(
        200,
        {},
        [turn.message() for turn in turns],
        [turn.reason or "" for turn in turns],
        [turn.usage for turn in turns],
        [turn.logprobs for turn in turns],
        frames,
    )


class _Turn:
    """One candidate of a stream."""

    def __init__(self) -> None:
        self.content = ""
        self.reasoning = ""
        self.calls: list[dict[str, Any]] = []
        self.reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.logprobs: list[dict[str, Any]] = []
        self._frames = 0
        self._boundary = False  # thinking has begun and its end has not been said
        self._content_began = False

    def take(self, choice: dict[str, Any]) -> None:
        assert {"index", "delta", "finish_reason"} <= set(choice)  # P0
        assert self.reason is None, "a frame after the end"
        delta = choice["delta"]
        self._frames += 1
        if self._frames == 1:
            assert delta == {"role": "assistant", "content": ""}  # P0 and P1
            assert choice["finish_reason"] is None
            return
        assert "role" not in delta  # P1
        if choice["finish_reason"] is not None:
            assert delta == {}  # P1
            check_usage(choice["usage"])  # P0
            self.reason, self.usage = choice["finish_reason"], choice["usage"]
            assert self.reason in ("stop", "length", "tool_calls")
            return
        kinds = {"content", "reasoning_content", "tool_calls"} & set(delta)
        assert len(kinds) == 1, delta  # P2
        for name in kinds - {"tool_calls"}:
            assert isinstance(delta[name], str) and "\ufffd" not in delta[name]  # P0
        if "reasoning_content" in delta:
            assert not self._content_began or not self.reasoning or self._boundary
            self._boundary = delta["reasoning_content"] != ""
            self.reasoning += delta["reasoning_content"]
        else:
            assert not self._boundary, "content before the end of thinking"  # P1
            self._content_began = True
        self.content += delta.get("content", "")
        if choice.get("logprobs"):
            check_logprobs(choice["logprobs"])  # P1
            self.logprobs += choice["logprobs"]["content"]
        for call in delta.get("tool_calls", ()):
            self._call(call)

    def _call(self, call: dict[str, Any]) -> None:
        if call["index"] == len(self.calls):  # P0: from 0, +1 each
            assert set(call) == {"index", "id", "type", "function"} and call["type"] == "function"
            assert set(call["function"]) == {"name", "arguments"}
            assert call["function"]["arguments"] == ""
            self.calls.append(
                {"id": call["id"], "type": "function", "function": dict(call["function"])}
            )
            return
        assert call["index"] == len(self.calls) - 1, "interleaved"  # P1
        assert set(call) == {"index", "function"}  # P0
        assert set(call["function"]) == {"arguments"}
        self.calls[-1]["function"]["arguments"] += call["function"]["arguments"]

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content or None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            check_calls(self.calls)
            message["tool_calls"] = self.calls
        if not self.calls:
            message["content"] = self.content
        return message
