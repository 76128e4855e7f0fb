"""Deltas of an answer -> Anthropic's stream events, and the whole message that they add up to.

    message_start (content_block_start content_block_delta* content_block_stop)* message_delta
    message_stop

There is one translator, and the whole message is what a client would add its events up to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.events import Usage
from perilune.serve.api_error import ApiError
from perilune.serve.request import new_id
from perilune.serve.stream import Completed
from perilune.serve.thought import carry, mark

ApiEvent = dict[str, Any]
PING: ApiEvent = {"type": "ping"}


@dataclass(slots=True)
class _Block:
    kind: str  # thinking, text, tool_use
    index: int
    text: list[str] = field(default_factory=list)


class MessageEvents:
    """Translates the stream of one request. `start` first, then each delta through `feed`."""

    def __init__(
        self,
        message_id: str,
        model: str,
        prompt_tokens: int,
        *,
        max_context: int,
        show_thinking: bool = True,
    ) -> None:
        self._id = message_id
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._max_context = max_context
        self._show_thinking = show_thinking
        self._block: _Block | None = None
        self._blocks = 0
        self.cut_call: int | None = None  # index of a call that ended without its end

    def start(self) -> Iterator[ApiEvent]:
        """What a client learns before the first token."""
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_json(Usage(prompt_tokens=self._prompt_tokens)),
        }
        yield {"type": "message_start", "message": message}
        yield PING

    def feed(self, event: Delta | Completed) -> Iterator[ApiEvent]:
        match event:
            case ReasoningDelta(text):
                yield from self._open("thinking", {"thinking": "", "signature": ""})
                yield from self._text("thinking_delta", "thinking", text, shown=self._show_thinking)
            case ReasoningEnd():
                yield from self._close()
            case ContentDelta(text):
                if text:
                    yield from self._open("text", {"text": ""})
                    yield from self._text("text_delta", "text", text)
            case ToolCallStart(_, _, name):
                yield from self._close()
                yield from self._open(
                    "tool_use", {"id": new_id("toolu_"), "name": name, "input": {}}
                )
            case ToolCallArguments(_, text):
                yield from self._text("input_json_delta", "partial_json", text)
            case ToolCallEnd():
                yield from self._close()
            case Finished():
                if self._block is not None and self._block.kind == "tool_use":
                    self.cut_call = self._block.index
                yield from self._close()
                yield self._message_delta(event)
            case Completed():
                yield {"type": "message_stop"}

    def _open(self, kind: str, fields: dict[str, Any]) -> Iterator[ApiEvent]:
        """A block of this kind, unless one is open."""
        if self._block is not None and self._block.kind == kind:
            return
        yield from self._close()
        self._block = _Block(kind, self._blocks)
        self._blocks += 1
        block = {"type": kind, **fields}
        yield {
            "type": "content_block_start",
            "index": self._block.index,
            "content_block": block,
        }

    def _text(self, kind: str, key: str, text: str, *, shown: bool = True) -> Iterator[ApiEvent]:
        assert self._block is not None
        self._block.text.append(text)
        if shown:
            yield self._delta({"type": kind, key: text})

    def _close(self) -> Iterator[ApiEvent]:
        block = self._block
        if block is None:
            return
        if block.kind == "thinking":
            text = "".join(block.text)
            signature = mark(text) if self._show_thinking else carry(text)
            yield self._delta({"type": "signature_delta", "signature": signature})
        self._block = None
        yield {"type": "content_block_stop", "index": block.index}

    def _delta(self, delta: dict[str, Any]) -> ApiEvent:
        assert self._block is not None
        return {"type": "content_block_delta", "index": self._block.index, "delta": delta}

    def _message_delta(self, event: Finished) -> ApiEvent:
        stop = event.stop if isinstance(event.stop, str) else None
        usage = event.usage or Usage()
        reason = "end_turn" if stop is None else "stop_sequence"
        if event.reason is FinishReason.TOOL_CALLS:
            reason = "tool_use"
        elif event.reason is FinishReason.LENGTH:
            full = usage.total_tokens >= self._max_context
            reason = "model_context_window_exceeded" if full else "max_tokens"
        return {
            "type": "message_delta",
            "delta": {
                "stop_reason": reason,
                "stop_sequence": stop if reason == "stop_sequence" else None,
            },
            "usage": usage_json(usage),
        }


class WholeMessage:
    """Adds stream events up to the message of a reply that is not streamed.

    A call that was cut has no input that could be written down, so it is left out here; a stream
    shows its beginning.
    """

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, list[str]] = {}

    def add(self, event: ApiEvent) -> None:
        match event["type"]:
            case "message_start":
                self._message = dict(event["message"])
            case "content_block_start":
                self._blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                self._add_delta(event["index"], event["delta"])
            case "message_delta":
                self._message |= event["delta"]
                self._message["usage"] = event["usage"]

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._blocks[index]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._inputs.setdefault(index, []).append(delta["partial_json"])

    def message(self, *, cut_call: int | None = None) -> dict[str, Any]:
        """The message; `cut_call` as the translator has it. Raises ApiError."""
        content = []
        for index, block in self._blocks.items():
            if index == cut_call:
                continue
            if block["type"] == "tool_use":
                block = {**block, "input": _input("".join(self._inputs.get(index, ())))}
            content.append(block)
        return {**self._message, "content": content}


def _input(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ApiError(
            500, "the model called a tool with arguments that are not JSON", code="bad_tool_call"
        ) from None


def usage_json(usage: Usage) -> dict[str, Any]:
    """Input tokens are those that the cache did not have; the three sum up to the prompt."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "service_tier": "standard",
    }
